"""Rows written as they come, as jsonl, CSV or TSV: the file is whole, or it is not there."""

import contextlib
import datetime
import decimal
import io
import json
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TextIO

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.data.tables.table import is_unicode

STANDARD_OUTPUT = "-"
FORMATS = {"": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
"""What is written, by the end of the file's name."""
Row = Mapping[str, Any]


def output_format(path: str, also: str = "") -> str:
    """The format that a name stands for; "-" is jsonl. A `UserError` if it stands for none.

    Args:
      also: endings that the verb writes besides, for the message.
    """
    suffix = "" if path == STANDARD_OUTPUT else Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(
            "an output of a format that is not written",
            where=path,
            expected=f"a name that ends in {also}.jsonl, .csv or .tsv, or - for standard output",
            got=suffix,
        )
    return FORMATS[suffix]


def check_output(path: str, inputs: Iterable[str], overwrite: bool, also: str = "") -> None:
    """Refuses a place where the output would be lost, or would lose something.

    Args:
      inputs: files that are read meanwhile.
      overwrite: it may replace a file.
      also: see `output_format`.

    Raises:
      UserError: the directory is missing or may not be written to, there is a file already, or it
        is an input.
    """
    output_format(path, also)
    if path != STANDARD_OUTPUT:
        check_place(path, inputs, overwrite)


def check_place(path: str, inputs: Iterable[str], overwrite: bool) -> None:
    """`check_output` of a file, whatever its format.

    Raises:
      UserError: as there.
    """
    fault, fix = _fault(Path(path), inputs, overwrite) or (None, None)
    if fault is not None:
        raise UserError(
            "an output that cannot be written",
            where=path,
            expected="a new file, in a directory that is there",
            got=fault,
            fix=fix,
        )


def _fault(path: Path, inputs: Iterable[str], overwrite: bool) -> tuple[str, str | None] | None:
    """What is wrong with an output, and what to do about it."""
    if not path.parent.is_dir():
        return "its directory does not exist", f"mkdir -p {path.parent}"
    if path.exists():
        if any(path.samefile(given) for given in inputs):
            return "it is an input too", "choose another name"
        if not path.is_file():
            return "it is no file", "name a file, or - for standard output"
        if not overwrite:
            return "there is such a file already", "choose another name, or add --overwrite"
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        return f"its directory cannot be written to: {error.strerror}", None
    return None


class Writer(ABC):
    """Writes rows, a line each.

    Args:
      names: the columns of the rows that the file has already.
    """

    def __init__(self, file: IO[str], names: Sequence[str] = ()):
        self._file, self._names = file, tuple(names)

    def write(self, names: Sequence[str], rows: Sequence[Row], places: Sequence[str]) -> None:
        """Writes rows.

        Args:
          names: their columns, in order; a row may lack some.
          places: where each row comes from, for messages.

        Raises:
          UserError: a value that the format cannot hold.
        """
        lines = []
        for row, place in zip(rows, places, strict=True):
            try:
                lines.append(self._line(row))
            except (TypeError, ValueError):
                raise _unwritable(row, place, self._line) from None
        self._file.writelines(lines)
        self._file.flush()

    @abstractmethod
    def _line(self, row: Row) -> str:
        """The row with its line end. Raises TypeError or ValueError if it has none."""


class JsonlWriter(Writer):
    """Writes rows as jsonl: one object a line."""

    def _line(self, row: Row) -> str:
        line = _json(row)
        # Half a surrogate pair is nothing that UTF-8 can hold, but JSON can spell it.
        return (line if is_unicode(line) else json.dumps(row, default=_spelt)) + "\n"


class CsvWriter(Writer):
    """Writes rows as CSV: values with commas, quotation marks or line ends in quotation marks;
    lists and objects as JSON; what is missing empty. The columns are those of the first rows."""

    separator = ","

    def write(self, names: Sequence[str], rows: Sequence[Row], places: Sequence[str]) -> None:
        if not self._names:
            self._names = tuple(names)
            super().write(names, [dict(zip(names, names))], ["the header"])
        for row, place in zip(rows, places):
            if not row.keys() <= set(self._names):
                raise UserError(
                    "a column that the rows before it did not have",
                    where=place,
                    expected=", ".join(self._names),
                    got=", ".join(name for name in row if name not in self._names),
                    fix="write jsonl, or leave the input's columns out with --no-keep-input",
                )
        super().write(names, rows, places)

    def _line(self, row: Row) -> str:
        line = self.separator.join(self._cell(_text(row.get(name))) for name in self._names)
        if not is_unicode(line):
            raise ValueError("half a character")
        return line + "\n"

    def _cell(self, text: str) -> str:
        quoted = any(mark in text for mark in ',"\r\n')
        return '"' + text.replace('"', '""') + '"' if quoted else text


class TsvWriter(CsvWriter):
    """Writes rows as TSV, where quotation marks mean nothing: tabs and line ends are refused."""

    separator = "\t"

    def _cell(self, text: str) -> str:
        if any(mark in text for mark in "\t\r\n"):
            raise ValueError("a tab or a line end")
        return text


WRITERS = {"jsonl": JsonlWriter, "csv": CsvWriter, "tsv": TsvWriter}


@contextlib.contextmanager
def open_output(path: str) -> Iterator[Writer]:
    """A writer of the format that the name stands for.

    A file has its name once all is written, on the disk, and no exception came: until then, and if
    the process is killed, what there is of it has a hidden name that ends in ".tmp".
    """
    kind = WRITERS[output_format(path)]
    if path == STANDARD_OUTPUT:
        with _as_utf8(sys.stdout) as file:
            yield kind(file)
        return
    with atomic_write(path) as file:
        yield kind(file)


@contextlib.contextmanager
def _as_utf8(stream: TextIO) -> Iterator[TextIO]:
    """A stream that takes data: UTF-8 whatever the terminal's encoding is, without escapes."""
    buffer = getattr(stream, "buffer", None)
    if buffer is None:
        yield stream
        return
    stream.flush()
    file = io.TextIOWrapper(buffer, encoding="utf-8", newline="", write_through=True)
    try:
        yield file
    finally:
        file.detach()  # else the stream beneath would be closed with it


def _unwritable(row: Row, place: str, line: Callable[[Row], str]) -> UserError:
    """The error of the value for whose sake the row has no line."""
    for name, value in row.items():
        try:
            line({name: value})
        except (TypeError, ValueError):
            return UserError(
                "a value that cannot be written",
                where=f"{place}, column {name}",
                expected="text, finite numbers, true, false, null, and lists and objects of them; "
                "in TSV, neither tabs nor line ends",
                got=repr(value)[:80],
                fix="write jsonl; if it is a column of the input, --no-keep-input leaves it out",
            )
    raise AssertionError("each value can be written, the row cannot")


def _text(value: Any) -> str:
    """A value as a cell."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _json(value)
    return text if isinstance(value, str) or text[0] != '"' else json.loads(text)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_spelt)


def _spelt(value: Any) -> Any:
    """What JSON has no word for but people write in one way: dates, decimals, numpy's numbers."""
    if isinstance(value, datetime.date | datetime.time | decimal.Decimal):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")
