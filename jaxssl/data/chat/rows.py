"""Conversations as rows of tokens: cut to whole turns, and packed without seeing each other."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.chat.conversations import (
    Conversation,
    Turns,
    answered,
    asked,
    in_turns,
    most_turns,
)
from jaxssl.data.examples import Examples
from jaxssl.data.ragged import row_splits
from jaxssl.data.store.packing import best_fit
from jaxssl.data.store.rows import pad_id
from jaxssl.data.tokenizer.chat_template import ChatTemplate, Written

LEARNT = "learnt"
"""What a batch calls the mark of the assistant's tokens, uint8 [B, T]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """Conversations that fit into rows.

    Attributes:
      written: of each that does.
      texts: all that is said in each, before turns were cut.
      cut: how many lose turns.
      turns: how many turns these are.
      left_out: those whose last turn alone does not fit.
      total: how many there were.
    """

    written: list[Written]
    texts: list[str]
    cut: int
    turns: int
    left_out: int
    total: int

    def note(self, split: str, max_length: int) -> str | None:
        """What to tell the user; None where nothing is lost."""
        if not self.cut and not self.left_out:
            return None
        told = [f"{self.cut:,} lose their oldest turns ({self.turns:,} in all)"] * bool(self.cut)
        told += [f"{self.left_out:,} are left out: their last turn alone is"] * bool(self.left_out)
        over = self.cut + self.left_out
        loud = "WARNING: most of this data is cut off! " if over > self.total / 2 else ""
        return (
            f"{loud}{split}: {over:,} of {self.total:,} conversations are longer than data."
            f"max_length={max_length}; {'; '.join(told)}"
        )


def fit(
    template: ChatTemplate,
    conversations: Sequence[Conversation],
    max_length: int,
    *,
    refuse: bool = False,
) -> Fitted:
    """Conversations whose last turn is answered, with as many of their last turns as fit.

    Args:
      max_length: of a conversation, in tokens.
      refuse: whether one whose last turn alone does not fit is an error.

    Raises:
      UserError: a conversation without an answer; the template fails; none fits.
    """
    written, texts, cut, lost, left_out = [], [], 0, 0, 0
    for each in conversations:
        turns = answered(in_turns(each.messages))
        if not turns.turns:
            raise UserError(
                "a conversation without an answer",
                where=each.place,
                expected="a message of the assistant's behind one of the user's",
                got=", ".join(message["role"] for message in each.messages),
                fix="take it out of the table",
            )
        made = _longest(template, turns, max_length, each.place)
        if made is None and refuse:
            raise _too_long(template, turns, max_length, each.place)
        if made is None:
            left_out += 1
            continue
        count, tokens = made
        written.append(tokens)
        texts.append(each.text)
        cut += count < len(turns.turns)
        lost += len(turns.turns) - count
    if not written:
        raise UserError(
            "no conversation fits into a row",
            where="data.max_length",
            expected="room for a question and its answer",
            got=max_length,
        )
    return Fitted(
        written=written,
        texts=texts,
        cut=cut,
        turns=lost,
        left_out=left_out,
        total=len(conversations),
    )


def _longest(
    template: ChatTemplate, turns: Turns, max_length: int, where: str
) -> tuple[int, Written] | None:
    """How many of the last turns fit, and these; None where not even one does."""
    made: dict[int, Written] = {}

    def length(count: int) -> int:
        made[count] = template.written(turns.last(count), where)
        return len(made[count].ids)

    count = most_turns(turns, length, max_length)
    return (count, made[count]) if count else None


def _too_long(template: ChatTemplate, turns: Turns, max_length: int, where: str) -> UserError:
    return UserError(
        "the last turn of a conversation alone is longer than a row",
        where=where,
        expected=f"at most data.max_length={max_length} tokens",
        got=len(template.written(turns.last(1), where).ids),
        fix="set task.too_long=leave_out, or data.max_length",
    )


def prompts(
    template: ChatTemplate, conversations: Sequence[Conversation], room: int
) -> list[np.ndarray | None]:
    """What the next answer of each follows, of at most `room` tokens, its oldest turns left out; an
    answer at its end is taken away. None where its question alone is longer.

    Raises:
      UserError: a conversation without a question; the template fails.
    """
    found: list[np.ndarray | None] = []
    for each in conversations:
        turns = asked(in_turns(each.messages))
        if not turns.turns:
            raise UserError(
                "a conversation without a question",
                where=each.place,
                expected="a message of the user's",
                got=", ".join(message["role"] for message in each.messages),
            )
        _, ids = prompt_of(template, turns, room, each.place)
        found.append(ids)
    return found


def prompt_of(
    template: ChatTemplate, turns: Turns, room: int, where: str
) -> tuple[int, np.ndarray | None]:
    """How many of the last turns fit into `room` tokens, and these; 0 and None where the question
    alone does not."""
    made: dict[int, np.ndarray] = {}

    def length(count: int) -> int:
        made[count] = template.prompt(turns.last(count), where)
        return len(made[count])

    count = most_turns(turns, length, room)
    return (count, made[count]) if count else (0, None)


# --- Rows ---------------------------------------------------------------------------------------


def rows_of(
    written: Sequence[Written], special_ids: Mapping[str, int | None], packed_to: int | None
) -> tuple[Examples, list[list[int]]]:
    """Rows for the device, and which of the conversations each holds.

    Args:
      special_ids: of the tokenizer, by role.
      packed_to: tokens of a row that holds several conversations; None gives each its own.
    """
    lengths = np.array([len(each.ids) for each in written], np.int64)
    if packed_to is None:
        held = [[number] for number in range(len(written))]
    else:
        held = _by_first(best_fit(lengths, packed_to))
    order = [number for row in held for number in row]
    sizes = lengths[order]
    numbers = np.concatenate([np.arange(1, len(row) + 1) for row in held])
    per_token = {
        LEARNT: (_joined([written[i].learnt for i in order]).astype(np.uint8), 0),
        "segment_ids": (np.repeat(numbers, sizes).astype(np.int32), 0),
        "positions": (_joined([np.arange(n) for n in sizes]).astype(np.int32), 0),
    }
    totals = np.array([lengths[row].sum() for row in held], np.int64)
    examples = Examples(
        tokens=_joined([written[i].ids for i in order]).astype(np.int32),
        starts=row_splits(totals),
        second=totals.astype(np.int32),
        pad_id=pad_id(special_ids),
        per_token=per_token,
    )
    return examples, held


def _by_first(bins: np.ndarray) -> list[list[int]]:
    """The numbers in each bin, bins in the order of their first."""
    held: dict[int, list[int]] = {}
    for number, place in enumerate(bins.tolist()):
        held.setdefault(place, []).append(number)
    return list(held.values())


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts))
