"""Texts of a table, as rows."""

import dataclasses

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.encoding import encode_rows
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.tasks.base import Encoded


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


def encode_labelled(
    table: Table,
    tokenizer: Tokenizer,
    max_length: int,
    split: str,
    *,
    text: str,
    pair: str | None,
    labels: np.ndarray | None,
) -> Encoded:
    """A row of one or two texts for each row of the table, and one label for each.

    Args:
      text: column of the text.
      pair: column of the second text, or None.
      labels: [N, ...], or None to predict them.
    """
    first = read_texts(table, text, "task.text")
    second = read_texts(table, pair, "task.pair") if pair else None
    examples, truncation = encode_rows(tokenizer, first, second, max_length)
    if labels is not None:
        examples = dataclasses.replace(examples, per_row={"labels": labels})
    return Encoded(examples, labels, truncation=truncation)
