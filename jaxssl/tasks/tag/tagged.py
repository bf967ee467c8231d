"""Sentences of a table with a tag for each word: reading, checking, numbering them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.table import Table
from jaxssl.scores.spans import PREFIXES, Scheme, convert, parse
from jaxssl.tasks.labels import UNKNOWN

OUTSIDE = "O"
AnyScheme = Scheme | Literal["none"]
Sentences = list[list[str]]


# --- Reading --------------------------------------------------------------------------------------


def read_words(table: Table, column: str) -> Sentences:
    """The words of each row: a list of strings, or a string that is split at whitespace.

    Raises:
      UserError: no such column, a value that is neither, or a row without words.
    """
    values = table.column(column, "task.words")
    return [
        _strings(value, f"{place}, column {column}", "word")
        for value, place in zip(values, table.places)
    ]


def read_tags(table: Table, column: str, sentences: Sentences) -> Sentences:
    """The tags of each row, one for each word.

    Raises:
      UserError: no such column, a word without a tag, or more or fewer tags than words.
    """
    rows = []
    for value, words, place in zip(table.column(column, "task.label"), sentences, table.places):
        where = f"{place}, column {column}"
        if isinstance(value, list):
            value = [str(tag) if type(tag) is int else tag for tag in value]
        tags = _strings(value, where, "tag")
        if len(tags) != len(words):
            raise UserError(
                "a sentence has not as many tags as words",
                where=where,
                expected=f"{len(words)} tags, one for each word",
                got=f"{len(tags)}: {' '.join(tags)}"[:200],
            )
        rows.append(tags)
    return rows


def _strings(value: Any, where: str, what: str) -> list[str]:
    strings = value.split() if isinstance(value, str) else value
    if not isinstance(strings, list):
        raise UserError(
            f"a sentence is not a list of {what}s",
            where=where,
            expected=f"a list of {what}s, or a string of them with spaces between",
            got=repr(value)[:80],
        )
    for i, string in enumerate(strings):
        if not isinstance(string, str):
            raise UserError(
                f"a {what} is not a string", where=f"{where}, {what} {i}", got=repr(string)[:80]
            )
    if not strings:
        raise UserError(
            "a sentence is empty",
            where=where,
            expected=f"at least one {what}",
            got=repr(value),
            fix="remove the row",
        )
    return strings


def in_scheme(
    rows: Sentences, table: Table, column: str, source: Scheme, target: Scheme, lenient: bool
) -> Sentences:
    """The tags of each row in the scheme `target`.

    Raises:
      UserError: tags that are not of `source`, or, if not `lenient`, not legal in it.
    """
    converted = []
    for tags, place in zip(rows, table.places):
        try:
            converted.append(convert(tags, source, target, lenient=lenient))
        except UserError as error:
            raise UserError(
                error.what,
                where=f"{place}, column {column}, {error.where}",
                expected=error.expected,
                got=error.got,
                fix="say in task.scheme how the tags are meant; task.lenient=true takes those that "
                "are not legal as conlleval does",
            ) from None
    return converted


# --- Labels ---------------------------------------------------------------------------------------


def labels_of(found: Iterable[str], scheme: AnyScheme, given: Sequence[str]) -> tuple[str, ...]:
    """The labels of a training split with the tags `found`: O first, the others sorted.

    With a scheme, they are O and every tag of each type that is found: the training split need not
    have a long entity of each. `given` labels are taken as they are.

    Raises:
      UserError: those given are not those of the data, or there are fewer than two.
    """
    found = set(found)
    possible = found
    if scheme != "none":
        types = {parse(tag, scheme)[1] for tag in found if tag != OUTSIDE}
        tags = {f"{p}-{kind}" if kind else p for kind in types for p in PREFIXES[scheme]}
        possible = {OUTSIDE, *tags}
    labels = tuple(given) or tuple(sorted(possible, key=lambda tag: (tag != OUTSIDE, tag)))
    needed = found if scheme == "none" else found | {OUTSIDE}
    unlisted = sorted(needed - set(labels))
    without = [label for label in labels if label not in possible]
    if unlisted or without:
        raise UserError(
            "the labels given are not those of the training split",
            where="task.labels",
            expected="labels with an example (of entities, types with one), and all in the data",
            got=f"without an example: {without or 'none'}; not listed: {unlisted or 'none'}",
        )
    if len(labels) < 2:
        raise UserError(
            "there is nothing to tell apart",
            where="task.label",
            expected="at least two tags in the training split",
            got=", ".join(labels),
        )
    return labels


def numbers_of(
    learnt: Sentences, in_file: Sentences, labels: Sequence[str], table: Table, column: str
) -> np.ndarray:
    """The number of each word's label, int32 [W].

    Args:
      learnt: the tags of each row in the scheme of `labels`.
      in_file: the same as the file has them, for messages.

    Raises:
      UserError: a tag that is none of the labels.
    """
    number = {label: i for i, label in enumerate(labels)}
    for row, file_row, place in zip(learnt, in_file, table.places):
        if not number.keys() >= set(row):
            word = next(i for i, tag in enumerate(row) if tag not in number)
            raise UserError(
                "a tag that the training split does not have",
                where=f"{place}, column {column}, tag {word}",
                expected=", ".join(labels[:20]),
                got=repr(file_row[word]),
                fix=did_you_mean(row[word], labels) or UNKNOWN,
            )
    return np.array([number[tag] for row in learnt for tag in row], np.int32)
