"""Texts of a table."""

from jaxssl.core.errors import UserError
from jaxssl.data.tables import Table


def read_texts(table: Table, column: str, key: str) -> list[str]:
    """The texts of a column.

    Raises:
      UserError: no such column; a value that is no text, or is empty.
    """
    texts = table.strings(column, key)
    for text, place in zip(texts, table.places):
        if not text.strip():
            raise UserError(
                "a text is empty",
                where=f"{place}, column {column}",
                expected="some text",
                got=repr(text),
                fix="remove the row, or choose another column",
            )
    return texts
