"""Sentences of a table with a tag for each word: reading, checking, numbering them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.blanks import split_words
from jaxssl.data.tables.cells import is_missing, spelt_list
from jaxssl.data.tables.table import Table
from jaxssl.scores.spans import PREFIXES, Scheme, convert, parse
from jaxssl.tasks.words import Sentences, checked

OUTSIDE = "O"
AnyScheme = Scheme | Literal["none"]


# --- Reading --------------------------------------------------------------------------------------


def read_tags(table: Table, column: str, sentences: Sentences) -> Sentences:
    """The tags of each row, one for each word: a list (in CSV as text, too), or a string that is
    split at the blanks of ASCII, as `read_words` does.

    Raises:
      UserError: no such column, a word without a tag, or more or fewer tags than words.
    """
    rows = []
    for value, words, place in zip(table.column(column, "task.label"), sentences, table.places):
        where = f"{place}, column {column}"
        tags = _tags_of(value, where)
        _check_there(tags, words, where)
        tags = checked(tags, where, "tag")
        if len(tags) != len(words):
            raise UserError(
                "a sentence has not as many tags as words",
                where=where,
                expected=f"{len(words)} tags, one for each word",
                got=f"{len(tags)}: {' '.join(tags)}"[:200],
            )
        rows.append(tags)
    return rows


def _tags_of(value: Any, where: str) -> Any:
    if isinstance(value, str):
        found = spelt_list(value, where, brackets=True)
        value = split_words(value) if found is None else found
    if isinstance(value, list):
        value = [str(tag) if type(tag) is int else tag for tag in value]
        return [tag.strip() if isinstance(tag, str) else tag for tag in value]
    return value


def _check_there(tags: Any, words: Sequence[str], where: str) -> None:
    """Refuses a word without a tag."""
    for i, tag in enumerate(tags if isinstance(tags, list) else ()):
        if is_missing(tag):
            raise UserError(
                "a word has no tag",
                where=f"{where}, tag {i}" + (f", of {words[i]!r}" if i < len(words) else ""),
                expected="a tag for each word",
                got=repr(tag),
                fix="remove the sentence, or give the word a tag, such as O",
            )


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
                fix=did_you_mean(row[word], labels),
            )
    return np.array([number[tag] for row in learnt for tag in row], np.int32)
