"""Rows of an input that have no text: nothing is computed of them, and they are counted."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table

Row = dict[str, Any]


def rows_with_text(columns: Sequence[list], has_text: Callable[[Any], bool]) -> list[int]:
    """The rows that have a text in each of the columns, in order."""
    return [i for i, values in enumerate(zip(*columns)) if all(map(has_text, values))]


def chosen(table: Table, kept: Sequence[int]) -> Table:
    """The table of the rows `kept`."""
    return table if len(kept) == len(table) else table.select(kept)


class WithoutText:
    """Counts rows without text."""

    def __init__(self):
        self._count, self._total, self._first = 0, 0, ""

    def add(self, table: Table, kept: Sequence[int]) -> None:
        """A table of which the rows `kept` have text."""
        self._total += len(table)
        if len(kept) < len(table):
            self._count += len(table) - len(kept)
            first = next((i for i, row in enumerate(kept) if i != row), len(kept))
            self._first = self._first or table.places[first]

    def note(self, verb: str) -> str | None:
        """What to tell at the end, or None if each row had a text.

        Raises:
          UserError: none had.
        """
        if self._count and self._count == self._total:
            raise UserError(
                "no row has a text",
                where=f"{self._first} and all others",
                expected="some text in the columns that are read",
                got="null or blanks in each row",
                fix="name the column of the texts",
            )
        if not self._count:
            return None
        return (
            f"{verb}: {self._count:,} of {self._total:,} rows have no text, and null for what "
            f"is computed of it; the first is {self._first}"
        )


class Filled:
    """Tables with a row for each of theirs, where only those with text were computed.

    The names of a row's values are known when there is one; tables before it wait.

    Args:
      names: of the values, where there were rows before.
    """

    def __init__(self, names: Sequence[str] = ()):
        self._waiting: list[Table] = []
        self._names = list(names)

    def add(
        self, table: Table, kept: Sequence[int], rows: Sequence[Row]
    ) -> Iterator[tuple[Table, list[Row]]]:
        """The tables that are ready, with null for each value of the rows that are not `kept`.

        Args:
          kept: which rows of the table have text, in order.
          rows: what was computed of these.
        """
        if not rows and not self._names:
            self._waiting.append(table)
            return
        self._names = self._names or list(rows[0])
        for earlier in self._waiting:
            yield earlier, [self._empty() for _ in range(len(earlier))]
        self._waiting = []
        found = dict(zip(kept, rows, strict=True))
        yield table, [found[i] if i in found else self._empty() for i in range(len(table))]

    def _empty(self) -> Row:
        return dict.fromkeys(self._names)
