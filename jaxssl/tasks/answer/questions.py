"""Questions of a table, with their contexts and answers, read and checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxssl.core.errors import UserError
from jaxssl.data.tables.cells import spelt
from jaxssl.data.tables.table import Table
from jaxssl.tasks.texts import read_texts

SHAPE = '{"text": [...], "answer_start": [...]}, with empty lists for a question without an answer'


class Gold(NamedTuple):
    """An answer that is right.

    Attributes:
      text: as it stands in the context.
      start: where, in characters from 0.
    """

    text: str
    start: int

    @property
    def characters(self) -> tuple[int, int]:
        """Start and exclusive end, without whitespace around."""
        start = self.start + len(self.text) - len(self.text.lstrip())
        return start, start + len(self.text.strip())


@dataclass(frozen=True, eq=False)
class Question:
    """A row of the table.

    Attributes:
      id: unlike that of every other question of its split.
      answers: those that count as right; empty where there is none, None where it is not known.
      place: where it comes from, for messages.
    """

    id: str
    text: str
    context: str
    answers: tuple[Gold, ...] | None
    place: str


def read_questions(
    table: Table, *, id: str | None, question: str, context: str, answers: str | None
) -> list[Question]:
    """The questions of a table.

    Args:
      id: column of their names; None numbers them.
      question, context: columns of texts.
      answers: column of the answers; None reads none.

    Raises:
      UserError: no such column; an empty text; two questions of one id; an answer that is not
        where it is said to be.
    """
    texts = read_texts(table, question, "task.question")
    contexts = read_texts(table, context, "task.context")
    names = read_ids(table, id)
    golds = [None] * len(table) if answers is None else read_answers(table, answers)
    questions = [Question(*row) for row in zip(names, texts, contexts, golds, table.places)]
    for asked in questions:
        for gold in asked.answers or ():
            _check_in_context(gold, asked)
    return questions


def read_ids(table: Table, column: str | None) -> list[str]:
    """A name for each row, unlike every other's: scores are kept by it."""
    if column is None:
        return [str(i) for i in table.row_numbers or range(len(table))]
    seen: dict[str, str] = {}
    for value, place in zip(table.column(column, "task.id"), table.places):
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            raise UserError(
                "a question has no id",
                where=f"{place}, column {column}",
                expected="a string or a whole number",
                got=repr(value)[:80],
                fix="set task.id=null to number the questions",
            )
        if str(value) in seen:
            raise UserError(
                "two questions have the same id",
                where=f"{place}, column {column}",
                expected="an id of its own",
                got=f"{value!r}, which {seen[str(value)]} has",
                fix="set task.id=null to number the questions",
            )
        seen[str(value)] = place
    return list(seen)


def read_answers(table: Table, column: str) -> list[tuple[Gold, ...]]:
    """The answers of each row: lists of texts and starts, or a list of objects that have both; in
    CSV as text."""
    values = table.column(column, "task.label")
    return [
        _golds(value, f"{place}, column {column}") for value, place in zip(values, table.places)
    ]


def _golds(value: Any, where: str) -> tuple[Gold, ...]:
    pairs: list[tuple[Any, Any]] | None = None
    if isinstance(value, str) and (found := spelt(value)) is not None:  # a cell of a CSV file
        value = found
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            pairs = list(zip(texts, starts))
    elif isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        pairs = [(item.get("text"), item.get("answer_start")) for item in value]
    if pairs is None:
        raise UserError(
            "a question's answers are not given" if value is None else "these are not answers",
            where=where,
            expected=SHAPE,
            got=_short(repr(value)),
        )
    for text, start in pairs:
        if not isinstance(text, str) or type(start) is not int:
            raise UserError(
                "an answer is a text and where it starts",
                where=where,
                expected="a string, and a whole number of characters from 0",
                got=_short(f"text {text!r}, answer_start {start!r}"),
            )
        if not text.strip():
            raise UserError(
                "an answer is empty",
                where=where,
                expected="some text; empty lists for a question without an answer",
                got=repr(text),
            )
    return tuple(Gold(*pair) for pair in pairs)


def _check_in_context(gold: Gold, asked: Question) -> None:
    text, start, context = gold.text, gold.start, asked.context
    if start >= 0 and context.startswith(text, start):
        return
    found = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    nearest = min(found, key=lambda i: abs(i - start), default=None)
    raise UserError(
        "an answer is not in its context at answer_start",
        where=f"{asked.place}, question {asked.id!r}",
        expected=f"{_short(repr(text))} at character {start}, counted from 0",
        got=_short(repr(context[max(0, start) : max(0, start) + len(text)])),
        fix="the context does not hold this text anywhere: correct it, or remove the question"
        if nearest is None
        else f"the nearest is at {nearest}: correct answer_start (characters count, not bytes)",
    )


def _short(text: str) -> str:
    return text if len(text) <= 120 else text[:120] + "..."
