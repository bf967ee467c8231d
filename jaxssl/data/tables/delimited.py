"""Reader of CSV and TSV files."""

import collections
import csv
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.lines import Lines, Size
from jaxssl.data.tables.table import Note, Table, in_parts

ORANGE_TYPES = frozenset("d discrete c continuous s string t time".split())
"""What the second line of an Orange .tab file says of the columns (or their values)."""
EXCEL_DELIMITER = re.compile('"?sep=([^"])"?', re.IGNORECASE)
Record = tuple[int, list[str]]
"""Number of a row's first line, and the row's values."""


def read_delimited(
    path: str, config: TableFile, note: Note, rows: int | None = None
) -> Iterator[Table]:
    """A CSV or TSV file in tables of at most `rows`. Blank lines are left out, unless there is only
    one column."""
    quoted = config.quoting == "standard" or (config.quoting == "auto" and config.kind == "csv")
    with Lines(path, config.encoding) as lines:
        delimiter = _delimiter(lines, config)
        read = _quoted_records if quoted else _plain_records
        records = read(lines, delimiter)
        names = list(config.columns or _header(path, records))
        for _ in range(config.skip_lines):
            next(lines, None)
        fitting = _Fitting(
            records, len(names), lambda row: _check_first_row(path, row, names, config)
        )
        for part in in_parts(fitting, rows):
            if fitting.wrong and config.ragged_rows == "refuse":
                break
            columns = {name: [row[i] for _, row in part] for i, name in enumerate(names)}
            yield Table(columns, [f"{path}:{number}" for number, _ in part], path)
        collections.deque(fitting, maxlen=0)  # to the end, so that all wrong rows are counted
    if fitting.first_wrong is not None:
        _tell_of_ragged(path, fitting.wrong, fitting.first_wrong, names, config, note)


def _delimiter(lines: Lines, config: TableFile) -> str:
    """What parts columns. A first line such as sep=; says so where Excel wrote the file; it is
    read, and is no header."""
    told = EXCEL_DELIMITER.fullmatch(lines.peek().rstrip("\r\n"))
    if told is None:
        return config.delimiter or {"csv": ",", "tsv": "\t"}[config.kind]
    next(lines)
    if config.delimiter not in (None, told[1]):
        raise UserError(
            "a file that names another delimiter in its first line",
            where=lines.place,
            expected=f"sep={config.delimiter}, as delimiter says",
            got=told[0],
            fix="leave delimiter out, or correct the line",
        )
    return told[1]


def _check_first_row(path: str, first: Record, names: list[str], config: TableFile) -> None:
    """Refuses a first row that belongs to the header."""
    number, row = first
    if config.columns and row == names:
        raise UserError(
            "a header line where the first row should be",
            where=f"{path}:{number}",
            expected="a row of data: `columns` is for files without a header line",
            got=", ".join(names),
            fix="leave `columns` out, or set skip_lines=1",
        )
    if ".tab" in Path(path).name and row and ORANGE_TYPES.issuperset(row):
        raise UserError(
            "a line of Orange's column types where the first row should be",
            where=f"{path}:{number}",
            expected="a row of data: Orange's .tab files have three header lines",
            got=", ".join(row),
            fix="set skip_lines=2",
        )


class _Fitting:
    """An iterator over the rows with as many values as there are columns.

    Args:
      records: all rows.
      width: the number of columns.
      check: is given the first fitting row, before anything after it is read.

    Attributes:
      wrong: how many rows had another number so far.
      first_wrong: the first of them.
    """

    def __init__(self, records: Iterator[Record], width: int, check: Callable[[Record], None]):
        self._records, self._width, self._check = records, width, check
        self._is_first = True
        self.wrong, self.first_wrong = 0, None

    def __iter__(self) -> "_Fitting":
        return self

    def __next__(self) -> Record:
        record = self._next()
        if self._is_first:
            self._is_first = False
            self._check(record)
        return record

    def _next(self) -> Record:
        for number, row in self._records:
            if len(row) == self._width:
                return number, row
            if row and row != [""]:
                self.wrong, self.first_wrong = self.wrong + 1, self.first_wrong or (number, row)
            elif self._width == 1:  # the csv module's blank line has no value at all
                return number, [""]
        raise StopIteration


def _plain_records(lines: Lines, delimiter: str) -> Iterator[Record]:
    for line in lines:
        yield lines.number, line.rstrip("\r\n").split(delimiter)


def _quoted_records(lines: Lines, delimiter: str) -> Iterator[Record]:
    size = Size("row", "a quotation mark may be open; set quoting=none if they mean nothing here")
    reader = csv.reader(_measured(lines, size), delimiter=delimiter, strict=True)
    while True:
        start = lines.number + 1
        size.start(f"{lines.path}:{start}")
        limit = csv.field_size_limit(sys.maxsize)  # of all readers in this process: 128 KiB a value
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                "a row that is not CSV",
                where=f"{lines.path}:{start}",
                expected='values as they are or in "...", with quotation marks in these doubled',
                got=str(error),
                fix="set quoting=none if quotation marks mean nothing in this file",
            ) from None
        finally:
            csv.field_size_limit(limit)
        yield start, row


def _measured(lines: Lines, size: Size) -> Iterator[str]:
    for line in lines:
        size.add(line)
        yield line


def _header(path: str, records: Iterator[Record]) -> list[str]:
    number, header = next(((n, row) for n, row in records if "".join(row).strip()), (0, []))
    if not header:
        raise UserError(
            "a table without a header line",
            where=path,
            expected="names of the columns in the first line, then rows",
            got="an empty file",
        )
    names = [name.strip() or f"column {i}" for i, name in enumerate(header, 1)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            "a column's name occurs twice in the header",
            where=f"{path}:{number}",
            expected="each name once",
            got=", ".join(map(repr, twice))[:200],
            fix="if the file has no header line, name its columns in `columns`",
        )
    return names


def _tell_of_ragged(
    path: str, wrong: int, first: Record, names: list[str], config: TableFile, note: Note
) -> None:
    number, row = first
    if config.ragged_rows == "leave_out":
        note(f"{path}: left out {wrong} rows without {len(names)} values, first line {number}")
        return
    more = f" (and {wrong - 1} more such rows)" if wrong > 1 else ""
    raise UserError(
        "a row with too many values" if len(row) > len(names) else "a row with too few values",
        where=f"{path}:{number}",
        expected=f"{len(names)} values: {', '.join(names)}"[:300],
        got=f"{len(row)}{more}",
        fix="check delimiter and quoting; ragged_rows=leave_out does without such rows",
    )
