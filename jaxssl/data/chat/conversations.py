"""Conversations of a table: as messages in a column, or as lines that speakers say in turn."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.data.tables.cells import is_missing, spelt
from jaxssl.data.tables.table import Table, is_unicode

COLUMNS = ("messages", "conversations")
"""The usual columns."""
KEYS = (("role", "content"), ("from", "value"))
"""What says who speaks in a message, and what."""
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Who speaks, by the names that data sets give them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversation:
    """Messages with `role` and `content`.

    Attributes:
      place: where they come from, for messages.
    """

    messages: tuple[Mapping[str, str], ...]
    place: str

    @property
    def text(self) -> str:
        """All that is said, the same for any tokenizer."""
        return "\n".join(f"{each['role']}: {each['content']}" for each in self.messages)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A table with a line of a dialogue in each row: what one speaker says is the assistant's, the
    lines of others before it are the user's."""

    speaker: str
    """Column of who says the line."""
    text: str
    """Column of what is said."""
    assistant: str
    """The speaker whose lines are answers."""
    episode: str
    """Column that tells dialogues from each other: an episode, a scene, a call."""
    lines_before: int = 4
    """Most lines of others that are an answer's question. Behind more of them a new conversation
    begins."""
    answers: int = 4
    """Most answers of one conversation."""
    names: bool = True
    """Write who speaks before each line of others."""

    def __post_init__(self):
        check_at_least(1, self, "lines_before", "answers")

    @property
    def columns(self) -> dict[str, str]:
        """Those that it reads, by the keys that name them."""
        names = ("speaker", "text", "episode")
        return {f"task.dialogue.{name}": getattr(self, name) for name in names}

    def conversations(self, table: Table) -> list[Conversation]:
        """Those of a table, in its order.

        Raises:
          UserError: the assistant answers nobody.
        """
        table.check(self.columns)
        found: list[Conversation] = []
        episode, before, now = None, [], _Growing()
        rows = zip(
            table.column(self.episode),
            table.strings(self.speaker, "task.dialogue.speaker"),
            table.strings(self.text, "task.dialogue.text"),
            table.places,
        )
        for number, speaker, text, place in rows:
            if number != episode:
                found += now.ended()
                episode, before, now = number, [], _Growing()
            if speaker.strip() != self.assistant:
                said = text.strip()
                before.append(f"{speaker.strip()}: {said}" if self.names else said)
                continue
            if not before and now.messages:
                now.goes_on(text.strip())
            elif before:
                if len(before) > self.lines_before or now.answers == self.answers:
                    found += now.ended()
                    now = _Growing()
                now.answer("\n".join(before[-self.lines_before :]), text.strip(), place)
            before = []
        found += now.ended()
        if not found:
            raise UserError(
                "nobody is answered in these dialogues",
                where=f"task.dialogue.assistant, {table.source}",
                expected="a speaker who says something after others",
                got=repr(self.assistant),
            )
        return found


class _Growing:
    """A conversation on its way."""

    def __init__(self):
        self.messages: list[dict[str, str]] = []
        self._place = ""

    @property
    def answers(self) -> int:
        return len(self.messages) // 2

    def answer(self, asked: str, said: str, place: str) -> None:
        self._place = self._place or place
        self.messages += [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": said},
        ]

    def goes_on(self, said: str) -> None:
        """The assistant's next line, with nobody's between."""
        self.messages[-1]["content"] += f"\n{said}"

    def ended(self) -> list[Conversation]:
        """It, if something was said."""
        if not self.messages:
            return []
        return [Conversation(messages=tuple(self.messages), place=self._place)]


def read_conversations(table: Table, column: str | None) -> list[Conversation]:
    """One of each row: a list of `{role, content}` or of `{from, value}`, in CSV as JSON.

    Args:
      column: of them; None is the first of `COLUMNS` that is there.

    Raises:
      UserError: no such column, or what is no conversation, with its place.
    """
    if column is None:
        column = next((name for name in COLUMNS if name in table.columns), COLUMNS[0])
    cells = table.column(column, "task.messages")
    return [
        Conversation(messages=tuple(_messages(cell, f"{place}, {column}")), place=place)
        for cell, place in zip(cells, table.places)
    ]


def _messages(cell: Any, where: str) -> Iterable[dict[str, str]]:
    given = spelt(cell) if isinstance(cell, str) else cell
    if hasattr(given, "tolist"):  # of parquet
        given = given.tolist()
    if not isinstance(given, list) or not given:
        raise UserError(
            "this is no conversation",
            where=where,
            expected='a list of messages: [{"role": "user", "content": "..."}, ...]',
            got=repr(cell)[:80],
        )
    return [_message(each, f"{where}[{number}]") for number, each in enumerate(given)]


def _message(given: Any, where: str) -> dict[str, str]:
    keys = next((k for k in KEYS if isinstance(given, Mapping) and {*k} <= given.keys()), None)
    if keys is None:
        raise UserError(
            "this is no message of a conversation",
            where=where,
            expected="an object with role and content, or with from and value",
            got=repr(given)[:80],
        )
    role, content = given[keys[0]], given[keys[1]]
    if ROLES.get(role if isinstance(role, str) else "") is None:
        raise UserError(
            "nobody of this name takes part in a conversation",
            where=f"{where}, {keys[0]}",
            expected=", ".join(ROLES),
            got=repr(role)[:80],
        )
    is_text = isinstance(content, str) and is_unicode(content)
    if not is_text or is_missing(content):
        raise UserError(
            "a message says nothing",
            where=f"{where}, {keys[1]}",
            expected="some text",
            got=repr(content)[:80],
        )
    return {"role": ROLES[role], "content": content}


# --- Turns --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Turns:
    """A conversation in turns, each of which is kept or left out whole.

    Attributes:
      system: what stands before all of them, which is always kept.
      turns: what is asked and what is answered, the oldest first; the last may have no answer.
    """

    system: tuple[Mapping[str, str], ...]
    turns: tuple[tuple[Mapping[str, str], ...], ...]

    def last(self, count: int) -> list[Mapping[str, str]]:
        """The messages with so many of the last turns."""
        kept = self.turns[len(self.turns) - count :]
        return [*self.system, *(message for turn in kept for message in turn)]


def in_turns(messages: Sequence[Mapping[str, str]]) -> Turns:
    """A conversation in turns; an answer before the first question is left out, and what a system
    prompt says later belongs to the turn that it stands in."""
    first = next((i for i, m in enumerate(messages) if m["role"] == "user"), len(messages))
    system = tuple(m for m in messages[:first] if m["role"] == "system")
    turns: list[list[Mapping[str, str]]] = []
    for message in messages[first:]:
        begins = message["role"] != "assistant" and (
            not turns or turns[-1][-1]["role"] == "assistant"
        )
        if begins:
            turns.append([])
        turns[-1].append(message)
    return Turns(system, tuple(map(tuple, turns)))


def answered(turns: Turns) -> Turns:
    """Without what nobody answers at its end."""
    kept = turns.turns
    while kept and kept[-1][-1]["role"] != "assistant":
        kept = kept[:-1]
    return Turns(turns.system, kept)


def asked(turns: Turns) -> Turns:
    """With a last turn that waits for its answer: one that is there is taken away."""
    *before, last = turns.turns or ((),)
    question = tuple(m for m in last if m["role"] != "assistant")
    return Turns(turns.system, (*before, question)) if question else Turns(turns.system, ())


def most_turns(turns: Turns, length: Callable[[int], int], room: int) -> int:
    """How many of the last turns fit: 0 where not even one does.

    Args:
      length: gives the number of tokens of so many of them, which grows with it.
      room: tokens at most.
    """
    low, high = 0, len(turns.turns)
    if high and length(high) <= room:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if length(middle) <= room else (low, middle)
    return low
