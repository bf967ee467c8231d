"""Where the two entities of each row are: marked in its text, or told by columns of positions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxssl.core.errors import UserError
from jaxssl.data.tables.table import Table
from jaxssl.tasks.texts import read_texts
from jaxssl.tasks.words import read_words

KEY = "task.entities"
POSITIONS = ("subj_start", "subj_end", "obj_start", "obj_end")
Span = tuple[int, int]
"""Characters [start, end) of a text."""


class Pair(NamedTuple):
    """A text with two entities, which may overlap, and come in either order.

    Attributes:
      spans: of the first entity (the subject) and of the second (the object).
    """

    text: str
    spans: tuple[Span, Span]


@dataclass(frozen=True, kw_only=True)
class MarkedEntities:
    """Both entities stand between marks in the text, as in SemEval-2010 task 8."""

    name: Literal["marked"] = "marked"
    """Marks in the text."""
    text: str = "text"
    """Column of the text."""
    first: tuple[str, str] = ("<e1>", "</e1>")
    """What stands before and after the first entity."""
    second: tuple[str, str] = ("<e2>", "</e2>")
    """What stands before and after the second entity."""

    def __post_init__(self):
        for one, other in itertools.permutations((*self.first, *self.second), 2):
            # `other` lies in `one`, or begins as `one` ends: not to be told apart everywhere.
            if other in one or any(one.endswith(other[:n]) for n in range(1, len(other))):
                raise UserError(
                    "two marks can run into each other",
                    where="first, second",
                    expected="four different marks that share neither part nor end",
                    got=f"{one!r} and {other!r}",
                )

    @property
    def text_columns(self) -> dict[str, str]:
        """Columns that hold text, by their keys."""
        return {f"{KEY}.text": self.text}

    @property
    def position_columns(self) -> dict[str, str]:
        """None: the marks are in the text."""
        return {}

    def read(self, table: Table) -> list[Pair]:
        """The text of each row without its marks, and what they stood around.

        Raises:
          UserError: a mark that is missing, doubled or in the wrong place; an empty entity.
        """
        texts = read_texts(table, self.text, f"{KEY}.text")
        return [
            self._unmarked(text, f"{place}, column {self.text}")
            for text, place in zip(texts, table.places)
        ]

    def _unmarked(self, text: str, where: str) -> Pair:
        marks = (*self.first, *self.second)
        for mark in marks:
            if text.count(mark) != 1:
                raise UserError(
                    "an entity's mark is missing"
                    if mark not in text
                    else "an entity's mark is there more than once",
                    where=where,
                    expected=f"{mark} once",
                    got=_short(text),
                    fix=f"name the marks of these data in {KEY}.first and {KEY}.second",
                )
        at = [text.index(mark) for mark in marks]
        if at[0] > at[1] or at[2] > at[3]:
            raise UserError(
                "an entity's marks are in the wrong order",
                where=where,
                expected="{} before {}, and {} before {}".format(*marks),
                got=_short(text),
            )
        ends = [position + len(mark) for position, mark in zip(at, marks)]
        cuts = itertools.pairwise(sorted([0, *at, *ends, len(text)]))
        plain = "".join(text[a:b] for a, b in itertools.islice(cuts, 0, None, 2))
        marked = list(zip(marks, at))
        start, end, other_start, other_end = (
            place - sum(len(mark) for mark, other in marked if other < place) for place in at[:4]
        )
        return _pair(plain, [(start, end), (other_start, other_end)], where)


@dataclass(frozen=True, kw_only=True)
class _Positions:
    """Columns with the positions of both entities."""

    name: str
    """Columns of positions."""
    subj_start: str = "subj_start"
    """Column of where the subject starts, counted from 0."""
    subj_end: str = "subj_end"
    """Column of where the subject ends."""
    obj_start: str = "obj_start"
    """Column of where the object starts."""
    obj_end: str = "obj_end"
    """Column of where the object ends."""

    @property
    def position_columns(self) -> dict[str, str]:
        """Columns of positions, by their keys."""
        return {f"{KEY}.{name}": getattr(self, name) for name in POSITIONS}

    def _spans(self, table: Table) -> list[tuple[Span, Span]]:
        """The positions of each row, as the table has them."""
        columns = [_integers(table, name, key) for key, name in self.position_columns.items()]
        return [((a, b), (c, d)) for a, b, c, d in zip(*columns)]

    def _inside(self, spans: Sequence[Span], size: int, last: int, place: str) -> list[Span]:
        """Both spans with exclusive ends, if they lie in a text of `size` characters or words.

        Args:
          last: 1 where an end is the last one inside, 0 where it is the one after it.
        """
        for (start, end), name in zip(spans, ("subj", "obj")):
            if not 0 <= start < end + last <= size:
                columns = [getattr(self, f"{name}_{side}") for side in ("start", "end")]
                otherwise = 0 <= start < end + 1 - last <= size
                raise UserError(
                    "an entity's positions do not fit its text",
                    where=f"{place}, columns {' and '.join(columns)}",
                    expected=f"0 <= start {'<= end <' if last else '< end <='} {size}, "
                    f"in {self.name}",
                    got=f"{start} and {end}",
                    fix=f"set {KEY}.inclusive={'false' if last else 'true'} if the end is "
                    f"{'not ' if last else ''}in the entity"
                    if otherwise
                    else None,
                )
        return [(start, end + last) for start, end in spans]


@dataclass(frozen=True, kw_only=True)
class CharacterEntities(_Positions):
    """Columns say at which characters of the text both entities start and end."""

    name: Literal["characters"] = "characters"
    """Positions in characters."""
    text: str = "text"
    """Column of the text."""
    inclusive: bool = False
    """Whether an end is the last character, not the one after it."""

    @property
    def text_columns(self) -> dict[str, str]:
        """Columns that hold text, by their keys."""
        return {f"{KEY}.text": self.text}

    def read(self, table: Table) -> list[Pair]:
        """The text and the entities of each row.

        Raises:
          UserError: positions outside the text, or around nothing.
        """
        texts = read_texts(table, self.text, f"{KEY}.text")
        pairs = []
        for text, spans, place in zip(texts, self._spans(table), table.places):
            spans = self._inside(spans, len(text), int(self.inclusive), place)
            pairs.append(_pair(text, spans, f"{place}, column {self.text}"))
        return pairs


@dataclass(frozen=True, kw_only=True)
class WordEntities(_Positions):
    """A column holds lists of words, and others at which of them both entities start and end."""

    name: Literal["words"] = "words"
    """Positions in words, as in TACRED."""
    words: str = "words"
    """Column of the words: lists, or strings with spaces between. They are joined by spaces."""
    inclusive: bool = True
    """Whether an end is the last word, not the one after it."""

    @property
    def text_columns(self) -> dict[str, str]:
        """Columns that hold text, by their keys."""
        return {f"{KEY}.words": self.words}

    def read(self, table: Table) -> list[Pair]:
        """The joined words and the entities of each row.

        Raises:
          UserError: no lists of words; positions outside them, or around nothing.
        """
        rows = read_words(table, self.words, f"{KEY}.words")
        pairs = []
        for words, spans, place in zip(rows, self._spans(table), table.places):
            where = f"{place}, column {self.words}"
            spans = self._inside(spans, len(words), int(self.inclusive), place)
            starts = [0, *itertools.accumulate(len(word) + 1 for word in words)]
            in_text = [(starts[start], starts[end] - 1) for start, end in spans]
            pairs.append(_pair(" ".join(words), in_text, where))
        return pairs


EntityColumns = MarkedEntities | CharacterEntities | WordEntities


def _integers(table: Table, column: str, key: str) -> list[int]:
    numbers = table.numbers(column, key)
    for number, place in zip(numbers, table.places):
        if number != int(number):
            raise UserError(
                "a position is no whole number",
                where=f"{place}, column {column}",
                expected="0, 1, 2, ...",
                got=number,
            )
    return [int(number) for number in numbers]


def _pair(text: str, spans: Sequence[Span], where: str) -> Pair:
    for start, end in spans:
        if not text[start:end].strip():
            raise UserError(
                "an empty entity",
                where=where,
                expected="some text in each entity",
                got=f"{text[start:end]!r} in {_short(text)!r}",
            )
    return Pair(text, (spans[0], spans[1]))


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "..."
