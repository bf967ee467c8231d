"""Sentences of a table with a tag for each word: reading, checking, numbering them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.blanks import split_words
from jaxssl.data.tables.cells import is_missing, spelt_list
from jaxssl.data.tables.table import Table
from jaxssl.scores.spans import PREFIXES, Scheme, convert, parse
from jaxssl.tasks.labels import UNKNOWN
from jaxssl.tasks.words import Sentences, checked

OUTSIDE = "O"
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
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
                fix="remove the sentence, or give the word a tag",
            )


def in_scheme(
    rows: Sentences, table: Table, column: str, source: Scheme, target: Scheme, lenient: bool
) -> Sentences:
    """The tags of each row in the scheme `target`.

    Raises:
      UserError: tags that are not of `source`, or, if not `lenient`, not legal in it.
    """
    _check_tags(rows, table, column, source)
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
                fix=_other_scheme(rows, source)
                + "task.lenient=true reads tags that are not legal as conlleval does",
            ) from None
    return converted


def _check_tags(rows: Sentences, table: Table, column: str, scheme: Scheme) -> None:
    """Refuses tags that a scheme does not have: no leniency makes sense of them."""
    found = {tag for tags in rows for tag in tags}
    wrong = {tag for tag in found if not _belongs(tag, scheme)}
    if not wrong:
        return
    place, tags = next((p, tags) for p, tags in zip(table.places, rows) if wrong & set(tags))
    index = next(i for i, tag in enumerate(tags) if tag in wrong)
    raise UserError(
        f"a tag does not belong to {scheme}",
        where=f"{place}, column {column}, tag {index}",
        expected="O, or one of " + ", ".join(f"{p}-TYPE" for p in PREFIXES[scheme]),
        got=repr(tags[index]),
        fix=_scheme_of(found),
    )


def _belongs(tag: str, scheme: Scheme) -> bool:
    try:
        parse(tag, scheme)
    except UserError:
        return False
    return True


def _scheme_of(tags: Iterable[str]) -> str:
    """What to do about tags that are of another scheme than was said."""
    tags = set(tags)
    fitting = [name for name in SCHEMES if all(_belongs(tag, name) for tag in tags)]
    if fitting:
        return f"set task.scheme={fitting[-1]}, which has all tags of this table"
    prefixes = {tag.partition("-")[0] for tag in tags}
    if prefixes & {"L", "U"} and prefixes <= {"B", "I", "L", "O", "U"}:
        return "these are BILOU tags: write E for L and S for U, and set task.scheme=BIOES"
    if not prefixes & {"B", "I", "E", "S"}:
        return "set task.scheme=none if these are no entities: each tag is then a class"
    return "correct the tag in the data"


def _other_scheme(rows: Sentences, source: Scheme) -> str:
    """A scheme in which all tags are legal, to set instead of `source`."""
    for scheme in SCHEMES:
        if scheme != source and all(_is_legal(tags, scheme) for tags in rows):
            return f"set task.scheme={scheme}, in which all tags are legal; or "
    return ""


def _is_legal(tags: Sequence[str], scheme: Scheme) -> bool:
    try:
        convert(tags, scheme, scheme)
    except UserError:
        return False
    return True


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
