"""Labels of whole rows: read from a column, learnt from the training split, and numbered."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.table import Table

KEY = "task.label"
"""The configuration's key of the column, for messages."""
UNKNOWN = (
    "correct the label or leave the row out: a run can score no other labels than those it was "
    "trained with; `jaxssl predict` needs none"
)
"""What to do about a label that there is not in training."""


def read_labels(table: Table, column: str) -> list[str]:
    """One label a row.

    Raises:
      UserError: no such column; a row with several labels, or none.
    """
    labels = []
    for value, place in zip(table.column(column, KEY), table.places):
        if isinstance(value, list | tuple | dict):
            raise UserError(
                "a row has several labels",
                where=f"{place}, column {column}",
                expected="one label (task classify takes more, with task.multi_label=true)",
                got=repr(value)[:80],
            )
        if value is None or str(value).strip() == "":
            raise UserError(
                "a row has no label",
                where=f"{place}, column {column}",
                expected="a label",
                got=repr(value),
            )
        labels.append(str(value).strip())
    return labels


def read_label_lists(table: Table, column: str, separator: str) -> list[list[str]]:
    """Any number of labels a row: a list, or a string with `separator`, or null for none.

    Raises:
      UserError: no such column; a value that is neither.
    """
    rows = []
    for value, place in zip(table.column(column, KEY), table.places):
        parts = value.split(separator) if isinstance(value, str) else value or []
        if not isinstance(parts, list | tuple):
            raise UserError(
                "a row's labels cannot be read",
                where=f"{place}, column {column}",
                expected=f"a list, or a string with {separator!r} between the labels",
                got=repr(value)[:80],
            )
        rows.append([str(part).strip() for part in parts if str(part).strip()])
    return rows


def learn_labels(
    found: Counter[str], given: Sequence[str], column: str, *, at_least: int = 2
) -> tuple[str, ...]:
    """The labels in the order of their numbers: those `given`, or all found, in natural order.

    Args:
      found: how many rows of the training split have each label.
      given: by the recipe; empty if it leaves them to the data.
      column: where they were found, for messages.
      at_least: how many there must be.

    Raises:
      UserError: those given are not those found, or there are too few.
    """
    labels = tuple(given) or tuple(sorted(found, key=_natural))
    unknown = sorted(set(found) - set(labels))
    without = [label for label in labels if not found[label]]
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if unknown or without or twice:
        raise UserError(
            "the labels given are not those of the training split",
            where="task.labels",
            expected="each label once and with an example, and no other in the data",
            got=f"without an example: {without or 'none'}; not listed: {unknown or 'none'}"
            + (f"; listed twice: {twice}" if twice else ""),
        )
    if len(labels) < at_least:
        raise UserError(
            "there is nothing to tell apart",
            where=f"{KEY}={column}",
            expected="at least two labels in the training split",
            got=", ".join(labels) or "none",
        )
    return labels


def balanced_weights(found: Counter[str], labels: Sequence[str]) -> tuple[float, ...]:
    """rows / (labels * rows of the label) for each label: 1 on average over the rows."""
    return tuple(found.total() / (len(labels) * found[label]) for label in labels)


def number_labels(
    rows: Iterable[Sequence[str]], table: Table, column: str, labels: Sequence[str]
) -> list[list[int]]:
    """The labels of each row as numbers.

    Raises:
      UserError: a label that is not among `labels`, with its place.
    """
    number = {label: i for i, label in enumerate(labels)}
    for row, place in zip(rows, table.places):
        for label in row:
            if label not in number:
                raise UserError(
                    "a label that the training split does not have",
                    where=f"{place}, column {column}",
                    expected=", ".join(labels[:20]),
                    got=repr(label),
                    fix=did_you_mean(label, labels) or UNKNOWN,
                )
    return [[number[label] for label in row] for row in rows]


def list_labels(labels: Sequence[str]) -> str:
    """The first labels, for a line of text."""
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float64 [N, K] of logits [N, K]."""
    logits = logits.astype(np.float64)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def label_output(shares: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """`label` and `probabilities` of one row's probabilities [K]."""
    return {"label": labels[int(shares.argmax())], "probabilities": by_label(shares, labels)}


def label_details(
    predicted: np.ndarray, given: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """`per_class` and `confusion` for the report, of numbers [N]; see `Task.details`."""
    from jaxssl.scores.classification import confusion, per_class_report

    counts = confusion(predicted, given, len(labels))
    return {
        "per_class": per_class_report(predicted, given, labels),
        "confusion": {"labels": list(labels), "counts": counts.tolist()},
    }


def by_label(shares: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """{label: probability}, in six decimals."""
    return dict(zip(labels, shares.round(6).tolist()))


def most_frequent(train: np.ndarray, num_labels: int, count: int) -> np.ndarray:
    """Logits [count, K] that are highest for the most frequent of the numbers `train`."""
    shares = np.bincount(train, minlength=num_labels)
    return np.tile(shares.astype(np.float64), (count, 1))


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in their order, before words in theirs."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
