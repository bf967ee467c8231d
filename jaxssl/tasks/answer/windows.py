"""Questions with windows of their contexts, as rows of tokens.

A context that is too long for a row is cut into windows that overlap, and each is a row with the
question. A token that lies in several windows belongs to the one where it has most context on its
shorter side (`is_max_context` of google-research/bert's run_squad.py).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar
from jaxssl.data.encoding import BATCH
from jaxssl.data.examples import Examples
from jaxssl.data.store.rows import pad_id
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.tasks.answer.questions import Gold, Question

NOWHERE = -1
"""Position of an answer that is not in a row."""


@dataclass(frozen=True)
class Layout:
    """How long the parts of a row are.

    Attributes:
      max_length: tokens of a row.
      max_question: tokens of the question, at most.
      overlap: tokens that a window of a context shares with the next.
    """

    max_length: int
    max_question: int
    overlap: int

    def check(self, specials: int) -> None:
        """Refuses rows in which a long question would leave too little room for the context.

        Raises:
          UserError: says how long they must be.
        """
        least = specials + self.max_question + self.overlap + 1
        if self.max_length < least:
            raise UserError(
                "the rows have too little room for a context beside the question",
                where="data.max_length",
                expected=f"at least {least}: task.max_question={self.max_question}, more than "
                f"task.overlap={self.overlap} of the context, and {specials} special tokens",
                got=self.max_length,
                fix="raise data.max_length (384 is usual), or lower the other two",
            )


class Window(NamedTuple):
    """What puts the predictions for a row together with those for the others of its question.

    Attributes:
      spans: characters of each token of the whole context [n, 2].
      count: in how many rows the question is.
      begin: the token of the context that the window begins with.
      first: the position of this token in the row.
      gold: first and last token of the first answer in the context, if it is known and has one.
    """

    question: Question
    spans: np.ndarray
    count: int
    begin: int
    first: int
    gold: tuple[int, int] | None


class Asked(NamedTuple):
    """A question as rows.

    Attributes:
      windows: [W, 4], see `context_windows`.
      gold: first and last token of the first answer in the context, if it has one.
      tokens: of each row.
      first: the position of the context in a row.
    """

    question: Question
    spans: np.ndarray
    windows: np.ndarray
    gold: tuple[int, int] | None
    tokens: list[np.ndarray]
    first: int

    @property
    def labels(self) -> np.ndarray:
        """Positions of the answer's ends in each row [W, 2], NOWHERE where it is not whole."""
        first, last = (NOWHERE, NOWHERE) if self.gold is None else self.gold
        begin, end = self.windows[:, 0], self.windows[:, 1]
        whole = (first >= begin) & (last < end)
        at = np.array([first, last]) + self.first - begin[:, None]
        return np.where(whole[:, None], at, NOWHERE)


def encode_questions(
    questions: Sequence[Question], tokenizer: Tokenizer, layout: Layout
) -> tuple[list[Asked], int]:
    """The rows of all questions, and how many questions were cut.

    Texts that several questions share, as contexts do, are encoded once.

    Raises:
      UserError: too little room in a row; a text without a token; an answer without one.
    """
    before, between, after = (np.array(x, np.int32) for x in tokenizer.frame(pair=True))
    layout.check(len(before) + len(between) + len(after))
    texts = _encoded_once(tokenizer.encode_batch, [q.text for q in questions], "questions")
    contexts = _encoded_once(
        tokenizer.encode_with_offsets, [q.context for q in questions], "contexts"
    )
    asked, cut = [], 0
    for question in questions:
        text, (ids, spans) = texts[question.text], contexts[question.context]
        if not len(text) or not len(ids):
            raise _no_token(question, "context" if len(text) else "question")
        cut += len(text) > layout.max_question
        head = np.concatenate([before, text[: layout.max_question], between])
        room = layout.max_length - len(head) - len(after)
        windows = context_windows(len(ids), room, layout.overlap)
        tokens = [np.concatenate([head, ids[begin:end], after]) for begin, end, _, _ in windows]
        gold = answer_tokens(question.answers[0], spans, question) if question.answers else None
        asked.append(Asked(question, spans, windows, gold, tokens, len(head)))
    return asked, cut


@functools.lru_cache(maxsize=1 << 16)
def context_windows(length: int, room: int, overlap: int) -> np.ndarray:
    """Windows over `length` tokens: int64 [W, 4], read-only.

    The columns are begin and exclusive end of each window, and of the tokens that belong to it: of
    those with the most context in it, min(tokens to the left, tokens to the right) + window / 100
    as BERT has it, ties to the earlier window. They follow each other without a gap.
    """
    step = room - overlap
    begins = np.arange(1 + max(0, -(-(length - room) // step))) * step
    ends = np.minimum(begins + room, length)
    # Few windows hold a token: the last that begins before it, and some before that one.
    token = np.arange(length)
    last = np.minimum(token // step, len(begins) - 1)
    tried = last - np.arange(-(-room // step))[::-1, None]
    window = np.maximum(tried, 0)
    context = np.minimum(token - begins[window], ends[window] - 1 - token)
    value = 100 * context + (ends - begins)[window]
    best = np.where((tried >= 0) & (context >= 0), value, -1).argmax(axis=0)
    owner = np.take_along_axis(window, best[None], axis=0)[0]
    owned = [np.searchsorted(owner, np.arange(len(begins)), side) for side in ("left", "right")]
    windows = np.stack([begins, ends, *owned], axis=1)
    windows.setflags(write=False)
    return windows


def answer_tokens(gold: Gold, spans: np.ndarray, question: Question) -> tuple[int, int]:
    """First and last of the tokens that hold a character of the answer."""
    start, end = gold.characters
    first = int(np.searchsorted(spans[:, 1], start, side="right"))
    last = int(np.searchsorted(spans[:, 0], end, side="left")) - 1
    if first > last:
        raise UserError(
            "an answer has no token",
            where=f"{question.place}, question {question.id!r}",
            expected="an answer of characters that the tokenizer reads",
            got=repr(gold.text)[:80],
            fix="remove the question, or use another tokenizer",
        )
    return first, last


def join_rows(asked: Sequence[Asked], tokenizer: Tokenizer) -> tuple[Examples, list[Window]]:
    """All rows as examples, with a `Window` for each.

    Their `per_row` has, all int32 [N, 2]: `context`, position and exclusive end of the window in
    the row; `owned`, the same of the tokens that belong to it; and, where answers are known,
    `labels`, the positions of the answer's first and last token.
    """
    tokens = [row for each in asked for row in each.tokens]
    counts = [len(each.windows) for each in asked]
    windows = np.concatenate([each.windows for each in asked])
    first = np.repeat([each.first for each in asked], counts)
    placed = (windows + (first - windows[:, 0])[:, None]).astype(np.int32)
    per_row = {"context": placed[:, :2], "owned": placed[:, 2:]}
    if asked[0].question.answers is not None:
        per_row["labels"] = np.concatenate([each.labels for each in asked]).astype(np.int32)
    examples = Examples(
        tokens=np.concatenate(tokens),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in tokens])]).astype(np.int64),
        second=first.astype(np.int32),
        pad_id=pad_id(tokenizer.special_ids),
        per_row=per_row,
    )
    references = [
        Window(each.question, each.spans, count, int(begin), each.first, each.gold)
        for each, count in zip(asked, counts)
        for begin in each.windows[:, 0]
    ]
    return examples, references


def _encoded_once(
    encode: Callable[[Sequence[str]], list[Any]], texts: Sequence[str], what: str
) -> dict[str, Any]:
    """{text: what `encode` makes of it}, of each different text."""
    different, rows = list(dict.fromkeys(texts)), []
    with bar(total=len(different), description=f"encode {what}", unit="text") as progress:
        for start in range(0, len(different), BATCH):
            rows += encode(different[start : start + BATCH])
            progress.update(min(BATCH, len(different) - start))
    return dict(zip(different, rows))


def _no_token(question: Question, what: str) -> UserError:
    return UserError(
        f"a {what} has no token",
        where=f"{question.place}, question {question.id!r}",
        expected="a text that the tokenizer reads",
        got=repr(question.context if what == "context" else question.text)[:80],
        fix="remove the row, or use another tokenizer",
    )
