"""Labelled data as plain columns: a file or a hub data set in, named lists of equal length out."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jaxssl.core import progress
from jaxssl.core.errors import UserError, did_you_mean

Note = Callable[[str], None]
T = TypeVar("T")
DELIMITERS = ";\t|,"
"""What else may part the columns of a file whose header came out whole."""


def say(text: str) -> None:
    """Tells the user something that is not an error, on standard error."""
    progress.tell(text)


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length."""

    columns: dict[str, list]
    """Values by column; of CSV, TSV and CoNLL files all are strings (or None)."""
    places: list[str]
    """Where each row comes from, "train.csv:17", for messages. Of a row over several lines, the
    first; rows of parquet files and hub data sets count from 0, as their libraries do."""
    source: str = "the table"
    """What the rows were read from, for messages."""
    row_numbers: Sequence[int] | None = None
    """Which row each is, from 0, where they are a part of more; None: they are all."""

    def __post_init__(self):
        wrong = [name for name, values in self.columns.items() if len(values) != len(self.places)]
        if wrong:
            raise ValueError(f"columns {wrong} are not of {len(self.places)} rows")

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str, key: str = "column") -> list:
        """The values of a column.

        Args:
          name: which column.
          key: the configuration's key that named it, for the message.

        Raises:
          UserError: no such column; it lists those there are.
        """
        self.check({key: name})
        return self.columns[name]

    def check(self, columns: Mapping[str, str]) -> None:
        """Refuses the table if it lacks any of the columns, all of them in one error.

        Args:
          columns: by the configuration's key that names each.

        Raises:
          UserError: it lists the columns that there are.
        """
        lacking = {key: name for key, name in columns.items() if name not in self.columns}
        if not lacking:
            return
        several = len(lacking) > 1
        advice = {key: did_you_mean(name, self.columns) for key, name in lacking.items()}
        raise UserError(
            "the table has no such columns" if several else "the table has no such column",
            where=f"{', '.join(lacking)}, in {self.source}",
            expected="one of " + ", ".join(repr(_short(name)) for name in self.columns),
            got=", ".join(map(repr, lacking.values())),
            fix=_delimiter_advice(self.columns)
            or "; ".join(
                f"{key}: {text}" if several else text for key, text in advice.items() if text
            )
            or f"set {' and '.join(lacking)} to one of these; a file without a header line needs "
            "`columns`",
        )

    def strings(self, name: str, key: str = "column") -> list[str]:
        """A column of strings; a value that is none (a number, null) is a `UserError`."""
        values = self.column(name, key)
        for value, place in zip(values, self.places):
            if not isinstance(value, str):
                raise _wrong_value(name, place, "a string", value)
            if not is_unicode(value):
                raise _wrong_value(name, place, "whole characters, no half of a pair", value)
        return values

    def numbers(self, name: str, key: str = "column") -> list[float]:
        """A column of finite numbers, or of strings that spell them; else a `UserError`."""
        numbers = []
        for value, place in zip(self.column(name, key), self.places):
            try:
                number = float("nan" if isinstance(value, bool) or "_" in str(value) else value)
            except (TypeError, ValueError):
                number = float("nan")
            if not abs(number) < float("inf"):
                raise _wrong_value(name, place, "a finite number", value)
            numbers.append(number)
        return numbers

    def select(self, rows: Iterable[int]) -> "Table":
        """The table of these rows, in this order."""
        rows = list(rows)
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        numbers = self.row_numbers and [self.row_numbers[i] for i in rows]
        return Table(columns, [self.places[i] for i in rows], self.source, numbers)


def join(tables: Sequence[Table], source: str) -> Table:
    """The rows of several tables, one after the other; a column that one lacks is null there."""
    columns: dict[str, list] = {name: [] for table in tables for name in table.columns}
    for table in tables:
        for name, values in columns.items():
            values += table.columns.get(name, [None] * len(table))
    return Table(columns, [place for table in tables for place in table.places], source)


def in_parts(rows: Iterable[T], size: int | None) -> Iterator[list[T]]:
    """`rows` in lists of `size`, the last one shorter; None puts all of them in one."""
    rows = iter(rows)
    while part := list(itertools.islice(rows, size)):
        yield part


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON can spell half a surrogate pair, which is no character."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _wrong_value(name: str, place: str, expected: str, value: Any) -> UserError:
    return UserError(
        f"a value of column {name!r} cannot be used",
        where=place,
        expected=expected,
        got=_short(repr(value)),
    )


def _delimiter_advice(names: Iterable[str]) -> str | None:
    """What to do about a header that was not parted."""
    names = list(names)
    found = next((mark for mark in DELIMITERS if len(names) == 1 and mark in names[0]), None)
    return None if found is None else f"the header is not parted: set delimiter={json.dumps(found)}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "..."
