"""Documents that are skipped are counted and written down, never dropped in silence."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write

SKIPPED = "set_aside.jsonl"
EMPTY = "the text is empty"
SHOWN = 3
"""How many documents are shown when some were skipped."""


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


def merge(files: Sequence[Path], path: Path) -> dict[str, Any]:
    """Joins the tasks' lists of skipped documents in `path`; says how many there are of each kind.

    Returns:
      "documents", "file" (None if there are none), "kinds" (kind -> number, most frequent first)
      and "first" (the first few, in words), as the store's manifest has them.
    """
    kinds: Counter[str] = Counter()
    first: list[str] = []
    with contextlib.ExitStack() as stack:
        merged = stack.enter_context(atomic_write(path)) if files else None
        for file in files:
            with open(file, encoding="utf-8") as lines:
                for line in lines:
                    merged.write(line)  # type: ignore[union-attr]
                    record = json.loads(line)
                    kinds[kind(record["reason"])] += 1
                    if len(first) < SHOWN:
                        place = record["path"] + (f":{record['line']}" if record["line"] else "")
                        first.append(f"{place}: {record['reason']}")
    return {
        "documents": kinds.total(),
        "file": path.name if kinds else None,
        "kinds": dict(kinds.most_common()),
        "first": first,
    }


def kind(reason: str) -> str:
    """What the reasons of many documents have in common: "not UTF-8" of "not UTF-8: line 3"."""
    return re.split(r": | \(", reason, maxsplit=1)[0]


def described(aside: Mapping[str, Any], good: int) -> list[str]:
    """What was skipped beside `good` documents, in lines; none if nothing was."""
    if not aside.get("documents"):
        return []
    count = aside["documents"]
    kinds = "; ".join(f"{n:,} {what}" for what, n in aside.get("kinds", {}).items())
    lines = [
        f"set aside: {count:,} of {good + count:,} documents" + (f": {kinds}" if kinds else "")
    ]
    lines += [f"  {line}" for line in aside.get("first", ())]
    if count > SHOWN:
        lines.append(f"  all of them are in {aside['file']}")
    return lines


def check_share(aside: dict[str, Any], good: int, most: float, where: Path) -> None:
    """Refuses a store without too many of its documents. Empty ones are no loss and do not count.

    Args:
      good: how many documents are in the store.
      most: the largest share of all that may be skipped.
    """
    lost = aside.get("documents", 0) - aside.get("kinds", {}).get(EMPTY, 0)
    if lost <= most * (good + lost):
        return
    lines = described(aside, good)
    raise UserError(
        "too many documents cannot be used",
        where=where,
        expected=f"at most {most:.2%} of the documents set aside (max_set_aside)",
        got="\n".join([f"{lost / (good + lost):.2%}; {lines[0]}", *lines[1:]]),
        fix="mend the files (iconv -f cp1252 -t utf-8; text_key for the right key), or set a "
        "larger max_set_aside and run the same command again: what is done is kept",
    )
