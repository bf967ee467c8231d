"""Sentences of a table: the words of each row, and what stands beside them."""

from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.data.tables.blanks import BLANKS, split_words
from jaxssl.data.tables.cells import is_missing, spelt, spelt_list
from jaxssl.data.tables.table import Table

Sentences = list[list[str]]


def read_words(table: Table, column: str, key: str) -> Sentences:
    """The words of each row: a list of strings (in CSV as text, too), or a string that is split at
    the blanks of ASCII.

    Args:
      key: the configuration's key of the column, for messages.

    Raises:
      UserError: no such column, a value that is neither, or a row without words.
    """
    values = table.column(column, key)
    return [
        checked(words_of(value, where), where, "word")
        for value, where in (
            (value, f"{place}, column {column}") for value, place in zip(values, table.places)
        )
    ]


def words_of(value: Any, where: str) -> Any:
    """The words of a value of the table; another value than a list or a string as it is.

    A string in brackets is a list if there are strings in it: `["a", "b"]` is, `[1]` is text.

    Raises:
      UserError: a list that cannot be read.
    """
    if not isinstance(value, str):
        return value
    found = spelt_list(value, where)
    is_list = found is not None and (not found or any(isinstance(x, str) for x in found))
    return found if is_list else split_words(value)


def has_words(value: Any) -> bool:
    """Whether a value of the table is more than nothing, blanks or an empty list."""
    if isinstance(value, str):
        return bool(value.strip(BLANKS)) and spelt(value) != []
    return not is_missing(value) and value != []


def checked(value: Any, where: str, what: str) -> list[str]:
    """`value` if it is a list of strings, not empty.

    Args:
      what: a word, or a tag, for messages.

    Raises:
      UserError: it is not.
    """
    if not isinstance(value, list):
        raise UserError(
            f"a sentence is not a list of {what}s",
            where=where,
            expected=f"a list of {what}s, or a string of them with spaces between",
            got=repr(value)[:80],
        )
    for i, item in enumerate(value):
        if not isinstance(item, str):
            raise UserError(
                f"a {what} is not a string", where=f"{where}, {what} {i}", got=repr(item)[:80]
            )
    if not value:
        raise UserError(
            "a sentence is empty",
            where=where,
            expected=f"at least one {what}",
            got=repr(value),
            fix="remove the row",
        )
    return value
