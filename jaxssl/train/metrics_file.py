"""A run's `metrics.jsonl`: rows are written whole, taken back exactly, and checked when read.

A row is a flat dict with `kind` ("train", "validation", "sample", "fill_mask", "note") and `step`.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import parse_json, read_regular

FILE_NAME = "metrics.jsonl"
TEXT_KINDS = ("sample", "fill_mask", "note")  # rows whose strings are text, never numbers
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
DAMAGED = "a line of the metrics file is damaged"

Row = Mapping[str, Any]


class MetricsFile:
    """Appends one strict-JSON object a line to `<run_dir>/metrics.jsonl`.

    Each row is handed to the operating system in one write, so that a killed process loses nothing
    but, at worst, the line it was writing; opening the file again removes such a half line.

    Raises:
      UserError: the directory cannot be written or the disk is full.
    """

    def __init__(self, run_dir: str | Path):
        self.path = Path(run_dir) / FILE_NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = _read(self.path) if os.path.lexists(self.path) else b""
            self._file = open(self.path, "ab", buffering=0)
            self._mend(content)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, row: Row) -> None:
        """Appends `row`. Non-finite floats become the strings "nan", "inf" and "-inf"."""
        line = memoryview(json_line(row).encode())
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def rewind(self, step: int) -> None:
        """Removes the rows of later steps than `step`, all of them or none.

        What is kept is kept byte for byte. Rows without a step stay.
        """
        lines = list(_lines(self.path))
        kept = [line + b"\n" for line, row in lines if row.get("step", step) <= step]
        if len(kept) < len(lines):
            self._replace(kept)

    def close(self) -> None:
        self._file.close()

    def _replace(self, lines: list[bytes]) -> None:
        try:
            with atomic_write(self.path, "wb") as file:
                file.writelines(lines)
            self._file.close()
            self._file = open(self.path, "ab", buffering=0)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _mend(self, content: bytes) -> None:
        """Makes the file end with a whole line: ends a whole last line, cuts a half one."""
        if not content or content.endswith(b"\n"):
            return
        start = content.rfind(b"\n") + 1
        try:
            _parse(content[start:], str(self.path), "")
            self._file.write(b"\n")
        except UserError:
            os.truncate(self.path, start)


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """The rows of `<run_dir>/metrics.jsonl` in file order; no file, no rows.

    "nan", "inf" and "-inf" come back as floats, except in rows of text. A half-written last line
    is left out.

    Raises:
      UserError: a line other than the last is damaged.
    """
    path = Path(run_dir) / FILE_NAME
    if not os.path.lexists(path):
        return []
    return [_revive(row) for _, row in _lines(path)]


def json_line(row: Row) -> str:
    """`row` as one line of strict JSON, newline included."""
    return json.dumps(plain(dict(row)), allow_nan=False, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """`value` with plain Python numbers, and with non-finite floats as strings."""
    if hasattr(value, "tolist"):  # a NumPy or JAX scalar or array
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _revive(row: dict[str, Any]) -> dict[str, Any]:
    if row.get("kind") in TEXT_KINDS:
        return row
    return {
        key: _NON_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in row.items()
    }


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line (without its newline) and its row."""
    lines = _read(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield line, _parse(line, f"{path}:{number}", f"sed -i {number}d {path}")
        except UserError:
            if number < len(lines):  # what follows the last newline was half written
                raise


def _read(path: Path) -> bytes:
    fix = "restore it from a copy, or move it away: a run goes on without it"
    most = 1 << 40  # a row in memory takes more than its line: no limit of its own
    return read_regular(path, what="the metrics file cannot be read", fix=fix, most_bytes=most)


def _parse(line: bytes, where: str, remove: str) -> dict[str, Any]:
    """A line's row, which has a kind and a step.

    Raises:
      UserError: it is no such row.
    """
    fix = f"remove the line: {remove}"
    row = parse_json(line, where=where, what=DAMAGED, fix=fix)
    step = row.get("step", 0)
    if not isinstance(row.get("kind"), str) or type(step) is not int or step < 0:
        raise UserError(
            DAMAGED,
            where=where,
            expected="an object with a kind and a step",
            got=repr(line[:80].decode("utf-8", "replace")),
            fix=fix,
        )
    return row


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        "The run's metrics cannot be written.",
        where=path,
        got=error.strerror or error,
        fix="free space or make the run directory writable, then start the same command again:"
        " the run resumes",
    )
