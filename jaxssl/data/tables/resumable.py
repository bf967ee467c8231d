"""Rows of a file that takes long to make: who is killed on the way goes on after those that are
written.

Beside OUT there is OUT.part, the rows so far, and OUT.part.log: a line that says how they are made,
then one for each write, which says how far it came. When all is written, OUT.part becomes OUT.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from jaxssl.core.errors import UserError
from jaxssl.core.files import fsync_directory
from jaxssl.data.tables.writers import (
    STANDARD_OUTPUT,
    WRITERS,
    Row,
    Writer,
    open_output,
    output_format,
)

PART, LOG = ".part", ".part.log"
Settings = Mapping[str, Any]
"""How rows are made, by names for people: plain values that JSON holds."""
Record = dict[str, Any]
"""Of a write: `rows` and `bytes`, what there is after it; `columns`; and what was remembered."""


@dataclass(frozen=True)
class _Kept:
    """What is left of an output that was begun.

    Attributes:
      records: of the writes that came to their end.
      log_bytes: of the log, up to the last of them.
    """

    records: list[Record]
    log_bytes: int


class ResumedRows:
    """Writes rows behind those that are there.

    Attributes:
      rows: how many there are.
      records: of the writes before this process.
    """

    def __init__(
        self, writer: Writer, records: Sequence[Record], log: Callable[[Record], None] | None
    ):
        self.rows = records[-1]["rows"] if records else 0
        self.records = records
        self._writer, self._log, self._facts = writer, log, {}

    def remember(self, **facts: Any) -> None:
        """Keeps what will have to be known of the rows that are written next."""
        self._facts = facts

    def write(self, names: Sequence[str], rows: Sequence[Row], places: Sequence[str]) -> None:
        """As `Writer.write`; afterwards these rows are not lost."""
        self._writer.write(names, rows, places)
        self.rows += len(rows)
        if self._log is not None:
            self._log({"rows": self.rows, "columns": list(names), **self._facts})


@contextlib.contextmanager
def resumed_output(path: str, settings: Settings) -> Iterator[ResumedRows]:
    """Rows of a file that has its name once all are written. What a process leaves that was killed,
    interrupted or failed is gone on with; a `UserError` inside deletes it. Standard output ("-") is
    begun anew each time.

    Args:
      settings: how the rows are made: what was begun with others is not gone on with.

    Raises:
      UserError: it was begun with other settings, or another process is at it.
    """
    if path == STANDARD_OUTPUT:
        with open_output(path) as writer:
            yield ResumedRows(writer, [], None)
        return
    part, log = Path(path + PART), Path(path + LOG)
    if part.exists() and not log.exists():
        raise _unknown(part, log)
    with open(log, "a+b") as journal:
        _lock(journal, part)
        kept = _kept(part, journal, settings)
        if kept is None:
            _begin(journal, settings)
        records = _cut(part, journal, kept)
        try:
            with open(part, "a", encoding="utf-8") as file:
                columns = records[0]["columns"] if records else ()
                writer = WRITERS[output_format(path)](file, columns)
                yield ResumedRows(writer, records, lambda record: _add(file, journal, record))
        except UserError:
            part.unlink()
            log.unlink()
            raise
        os.replace(part, path)
        fsync_directory(part.parent)
        log.unlink()


def _lock(journal: IO[bytes], part: Path) -> None:
    """Keeps others away until the file is closed; a file system without locks cannot."""
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            "another command writes this output",
            where=part,
            expected="one at a time",
            got="a lock that is held",
            fix="wait for it, or choose another name",
        ) from None
    except OSError:
        return


def _kept(part: Path, journal: IO[bytes], settings: Settings) -> _Kept | None:
    """What is there of the output; None is nothing. A line of the log that is not whole, and a
    write of which the output has less than it says, do not count."""
    if not part.exists():
        return None
    size, place, values = part.stat().st_size, 0, []
    journal.seek(0)
    for line in journal:
        value = _value(line)
        if value is None or (values and value["bytes"] > size):
            break
        values.append(value)
        place += len(line)
    if not values:
        raise _unknown(part, Path(journal.name))
    _check_same(part, values[0], json.loads(json.dumps(settings)))
    return _Kept(values[1:], place)


def _value(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _check_same(part: Path, known: Settings, settings: Settings) -> None:
    changed = [name for name in {**known, **settings} if known.get(name) != settings.get(name)]
    if changed:
        raise UserError(
            "what was begun otherwise is not gone on with",
            where=part,
            expected="all as it was when it was begun",
            got=f"a change of: {', '.join(changed)}",
            fix=f"give the command that began it, or `rm {part}` to begin anew",
        )


def _unknown(part: Path, log: Path) -> UserError:
    return UserError(
        "it is not known how this was begun",
        where=part,
        expected=f"{log} beside it",
        got="one that cannot be read" if log.exists() else "no such file",
        fix=f"`rm {part}` to begin anew, or choose another name",
    )


def _begin(journal: IO[bytes], settings: Settings) -> None:
    journal.truncate(0)
    journal.write(json.dumps(settings).encode() + b"\n")
    journal.flush()
    os.fsync(journal.fileno())  # before there is a part: one without its log is refused


def _cut(part: Path, journal: IO[bytes], kept: _Kept | None) -> list[Record]:
    """Leaves of both files what counts; returns the records of it."""
    records = [] if kept is None else kept.records
    if kept is not None:
        journal.truncate(kept.log_bytes)
    with open(part, "ab") as file:
        file.truncate(records[-1]["bytes"] if records else 0)
    return records


def _add(file: IO[str], journal: IO[bytes], record: Record) -> None:
    """Notes a write that is on the disk."""
    os.fsync(file.fileno())
    journal.write(json.dumps({**record, "bytes": os.fstat(file.fileno()).st_size}).encode() + b"\n")
    journal.flush()
