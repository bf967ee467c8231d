"""What is told of labels that look wrong: they may be right, so that nothing is refused."""

import unicodedata
from collections.abc import Sequence
from typing import Any

from jaxssl.data.tables.cells import as_number

_NOTHING = frozenset(("nan", "NaN", "NaT", "None", "null", "NULL", "<NA>", "#N/A", "_"))
"""How pandas, Python, SQL, Excel and CoNLL-U write that a value is missing; `none` is
often a class."""
_MANY = 20
"""So many labels that are whole numbers are told; of fractions, three are."""


def label_notes(labels: Sequence[str]) -> tuple[str, ...]:
    """What is told of the labels of a training split: those that differ in spelling alone, and
    those that often stand for no label."""
    alike: dict[Any, list[str]] = {}
    for label in labels:
        alike.setdefault(spelling(label), []).append(label)
    notes = [
        f"WARNING: {' and '.join(map(repr, same))} are different labels: write them alike in the "
        "data if they are one"
        for same in alike.values()
        if len(same) > 1
    ]
    nothing = [label for label in labels if label in _NOTHING]
    if nothing:
        notes.append(
            f"WARNING: {', '.join(map(repr, nothing))} is learnt as a label: remove its rows if it "
            "stands for a missing one"
        )
    return tuple(notes)


def regress_hint(labels: Sequence[str]) -> str | None:
    """What to tell of labels that look like amounts."""
    numbers = [as_number(label) for label in labels]
    values = [number for number in numbers if number is not None]
    has_fractions = any(value % 1 for value in values)
    if len(values) < len(labels) or len(values) < (3 if has_fractions else _MANY):
        return None
    return (
        f"all {len(labels)} labels are numbers ({list_labels(labels)}): if they are amounts, "
        "task.name=regress learns them as such"
    )


def spelling(label: str) -> Any:
    """What is equal for labels that differ in case, in how characters are composed, or in how a
    number is written."""
    number = as_number(label)
    return unicodedata.normalize("NFKC", label).casefold() if number is None else number


def list_labels(labels: Sequence[str]) -> str:
    """The first labels, for a line of text."""
    return ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
