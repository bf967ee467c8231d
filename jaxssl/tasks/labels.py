"""Labels of whole rows: read from a column, learnt from the training split, and numbered."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.cells import as_number, is_missing, spelt_list
from jaxssl.data.tables.table import Table
from jaxssl.tasks.label_notes import list_labels, regress_hint, spelling

KEY = "task.label"
"""The configuration's key of the column, for messages."""
UNKNOWN = (
    "correct the label or leave the row out: a run can score no other labels than those it was "
    "trained with; `jaxssl predict` needs none"
)
"""What to do about a label that there is not in training."""


def label_of(value: Any, where: str) -> str:
    """A value of the table as a label.

    Raises:
      UserError: there is none, or it is nothing that names a class.
    """
    if is_missing(value):
        raise UserError("a row has no label", where=where, expected="a label", got=repr(value))
    if isinstance(value, bytes | dict | set) or value in (float("inf"), -float("inf")):
        raise UserError(
            "a value that is no label",
            where=where,
            expected="a string, a number, true or false",
            got=_short(value),
        )
    return str(value).strip()


def read_labels(table: Table, column: str) -> list[str]:
    """One label a row.

    Raises:
      UserError: no such column; a row with several labels, or none.
    """
    labels = []
    for value, place in zip(table.column(column, KEY), table.places):
        where = f"{place}, column {column}"
        if isinstance(value, list | tuple) or (
            isinstance(value, str) and spelt_list(value, where) is not None
        ):
            raise UserError(
                "a row has several labels",
                where=where,
                expected="one label (task classify takes more, with task.multi_label=true)",
                got=_short(value),
            )
        labels.append(label_of(value, where))
    return labels


def read_label_lists(table: Table, column: str, separator: str) -> list[list[str]]:
    """Any number of labels a row: a list (in CSV as text, too), a string with `separator`, or one
    number. An empty list or string means no label.

    Raises:
      UserError: no such column; a value that is none of these, or nothing at all.
    """
    return [
        _several(value, f"{place}, column {column}", separator)
        for value, place in zip(table.column(column, KEY), table.places)
    ]


def _several(value: Any, where: str, separator: str) -> list[str]:
    """The labels of a row."""
    if isinstance(value, str):
        found = spelt_list(value, where, brackets=True)
        if found is None:
            return [part.strip() for part in value.split(separator) if part.strip()]
        value = found
    if not isinstance(value, list | tuple):
        if value is None or value != value:
            raise UserError(
                "a row's labels are missing",
                where=where,
                expected="a list or a string; an empty one for a row without labels",
                got=repr(value),
            )
        value = [value]
    for item in value:
        if isinstance(item, list | tuple):
            raise UserError(
                "a list of labels has lists in it",
                where=where,
                expected='labels, such as ["a", "b"]',
                got=_short(value),
            )
    return [label_of(item, f"{where}, label {i}") for i, item in enumerate(value)]


# --- Multi-hot rows: 0 or 1 for each label -------------------------------------------------------

_HOT = {"0": 0, "0.0": 0, "False": 0, "false": 0, "1": 1, "1.0": 1, "True": 1, "true": 1}


def is_multi_hot(rows: Sequence[Sequence[str]], labels: Sequence[str] | None = None) -> bool:
    """Whether rows hold 0 or 1 for each label, and not the labels themselves.

    They do if they are of 0 and 1 alone and one repeats itself, which labels do not; or if all are
    of two, each of which would have both labels otherwise.

    Args:
      labels: None in a training split. Elsewhere those that are known: rows are as long, and none
        of these is called 0 or 1.
    """
    values = [[_HOT.get(item, -1) for item in row] for row in rows]
    if not values or any(value < 0 for row in values for value in row):
        return False
    if labels is not None and (len(values[0]) != len(labels) or _HOT.keys() & set(labels)):
        return False
    return any(len(set(row)) < len(row) for row in values) or all(len(row) == 2 for row in values)


def from_multi_hot(
    rows: Sequence[Sequence[str]], table: Table, column: str, labels: Sequence[str]
) -> list[list[str]]:
    """The labels whose place in a row has a 1.

    Raises:
      UserError: a row without a 0 or 1 for each label.
    """
    for row, place in zip(rows, table.places):
        if len(row) != len(labels) or not all(item in _HOT for item in row):
            raise UserError(
                "a row without a 0 or 1 for each label",
                where=f"{place}, column {column}",
                expected=f"{len(labels)} of them, for {list_labels(labels)}",
                got=f"{len(row)}: {_short(row)}",
                fix="task.labels names the labels in this order; task.multi_hot=false takes the "
                "values for labels",
            )
    return [[label for label, item in zip(labels, row) if _HOT[item]] for row in rows]


# --- Numbers --------------------------------------------------------------------------------------


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
                    fix=_unknown_label(label, labels),
                )
    return [[number[label] for label in row] for row in rows]


def _unknown_label(label: str, labels: Sequence[str]) -> str:
    """What to do about a label that is not known."""
    same = [known for known in labels if spelling(known) == spelling(label)]
    if same:
        return f"if it is {same[0]!r}, write it so"
    return regress_hint([*labels, label]) or did_you_mean(label, labels) or UNKNOWN


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in their order, before words in theirs."""
    number = as_number(label)
    return (1, 0.0, label) if number is None else (0, number, label)
