"""Reader of CoNLL-U, the format of Universal Dependencies: ten columns with names.

As it is defined (https://universaldependencies.org/format.html): columns are parted by tabs, a
sentence ends at a blank line, a line that begins with # is a comment. Ids count the words of a
sentence from 1; `2-3` is a token that was written as one, and words 2 and 3 follow; `6.1` is a node
that is not in the text. Words are syntactic ones, so that each has a tag: tokens of ranges and
empty nodes are left out.
"""

import re
from collections.abc import Iterator

from jaxssl.core.errors import UserError
from jaxssl.data.tables.blanks import BLANKS
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.lines import Lines, Size
from jaxssl.data.tables.table import Table, in_parts

COLUMNS = ("words", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""All but the id; `words` are the forms."""
UNSPECIFIED = "_"
_MAY_BE_UNDERSCORE = ("words", "lemma", "feats")
"""Columns where _ is a value: the underscore itself, and that a word has no features."""
BLANK_LINE = "put a blank line after each sentence"
NO_WORD = re.compile(r"\d+[-.]\d+", re.ASCII)
"""Ids of multiword tokens and empty nodes."""


def read_conllu(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """A row is a sentence, each of its values a list with a string for each word; what a word has
    not is None."""
    with Lines(path, config.encoding) as lines:
        for part in in_parts(_sentences(lines), rows):
            columns: dict[str, list] = {
                name: [[word[i] for word in words] for _, words in part]
                for i, name in enumerate(COLUMNS)
            }
            yield Table(columns, [place for place, _ in part], path)


def _sentences(lines: Lines) -> Iterator[tuple[str, list[list[str | None]]]]:
    """The place of each sentence's first word, and of each word its values of `COLUMNS`."""
    place, words = "", []
    size = Size("sentence", BLANK_LINE)
    for line in lines:
        if not line.strip(BLANKS):
            if words:
                yield place, words
            words = []
        elif not line.startswith("#"):
            id_, *values = _fields(line, lines.place)
            if NO_WORD.fullmatch(id_):
                continue
            _check_id(id_, len(words) + 1, lines.place)
            if not words:
                place = lines.place
                size.start(place)
            size.add(line)
            words.append([_value(name, value) for name, value in zip(COLUMNS, values)])
    if words:
        yield place, words


def _fields(line: str, place: str) -> list[str]:
    fields = line.rstrip("\r\n").split("\t")
    if len(fields) != 1 + len(COLUMNS) or not all(fields):
        raise UserError(
            "a line that is not CoNLL-U",
            where=place,
            expected="ten columns with a tab between, none empty (_ is for what a word has not)",
            got=f"{sum(map(bool, fields))} columns: {line.strip()}"[:200],
            fix="set format=conll and positions if the file has other columns",
        )
    return fields


def _check_id(id_: str, expected: int, place: str) -> None:
    if id_ != str(expected):
        raise UserError(
            "a word of CoNLL-U out of order",
            where=place,
            expected=f"the id {expected}; ids count the words of a sentence, and a blank line ends "
            "it",
            got=repr(id_),
        )


def _value(name: str, value: str) -> str | None:
    return None if value == UNSPECIFIED and name not in _MAY_BE_UNDERSCORE else value
