"""Documents that are skipped are counted and written down, never dropped in silence."""

import json
from pathlib import Path
from typing import IO

from jaxssl.core.files import atomic_write


class SkippedDocuments:
    """The documents one task could not use: a JSON line each of path, line and reason.

    Args:
      path: the file to write when the task is done (whole or absent; absent when there was
        nothing to skip), or None to count only.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path) if path is not None else None
        self.count = 0
        self.first: str | None = None
        """The first one, in words: for error messages."""
        self._context = None
        self._file: IO | None = None

    def add(self, path: str, line: int | None, reason: str) -> None:
        """Notes one document. `line` counts from 1; None where lines mean nothing."""
        self.count += 1
        place = path if line is None else f"{path}:{line}"
        self.first = self.first or f"{place}: {reason}"
        if self.path is None:
            return
        if self._file is None:
            self._context = atomic_write(self.path)
            self._file = self._context.__enter__()
        record = {"path": path, "line": line, "reason": reason}
        self._file.write(json.dumps(record, ensure_ascii=True) + "\n")

    def __enter__(self) -> "SkippedDocuments":
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, *exception) -> None:
        if self._context is not None:
            self._context.__exit__(*exception)
            self._context = self._file = None
