"""Rows of whole words: a sentence that is too long becomes several windows that overlap.

Every word belongs to one window, the one that shows most of what is around it: the fewer of the
tokens to its left and to its right in the window are to be as many as possible; the earlier window
where that is equal. In the others it is context.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.examples import Examples
from jaxssl.data.ragged import ragged_arange, row_splits
from jaxssl.data.store.rows import pad_id
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.data.tokenizer.words import Words, encode_words


@dataclass(frozen=True, eq=False)
class WordRows:
    """Sentences as rows of tokens, with the special tokens at their ends.

    Attributes:
      examples: the M rows, those of a sentence next to each other.
      sentence: int64 [M], the sentence of each row.
      starts: int64 [N + 1], which word each sentence starts with.
      row: int64 [W], the row that each word belongs to.
      first: int64 [W], the column of its first token there.
      last: int64 [W], the column of its last token there.
      nothing: the different words of which the tokenizer makes nothing.
    """

    examples: Examples
    sentence: np.ndarray
    starts: np.ndarray
    row: np.ndarray
    first: np.ndarray
    last: np.ndarray
    nothing: tuple[str, ...]

    def notes(self, split: str) -> tuple[str, ...]:
        """What to tell the user of windows, and of words without a token."""
        counts = np.bincount(self.sentence)
        long = counts[counts > 1]
        windows = (
            f"{split}: {len(long):,} of {len(counts):,} sentences are longer than a row and are "
            f"read in {long.sum():,} windows; no word is lost"
        )
        shown = ", ".join(map(repr, self.nothing[:5])) + ", ..." * (len(self.nothing) > 5)
        nothing = f"{split}: words that are nothing to the tokenizer, read as unknown: {shown}"
        return (windows,) * bool(len(long)) + (nothing,) * bool(self.nothing)


def encode_windows(
    tokenizer: Tokenizer,
    sentences: Sequence[Sequence[str]],
    places: Sequence[str],
    max_length: int,
    stride: int | None,
) -> WordRows:
    """Encodes sentences of words as rows of at most `max_length` tokens.

    Args:
      sentences: none of them empty.
      places: where each is, for messages.
      stride: most tokens of words that a window shares with the one before; None is a quarter of
        what a row holds.

    Raises:
      UserError: no room for words, a stride of more than half a row, or a word longer than a row.
    """
    before, _, after = tokenizer.frame(pair=False)
    room = max_length - len(before) - len(after)
    stride = room // 4 if stride is None else stride
    _check_room(room, max_length, stride)
    words = encode_words(tokenizer, sentences, places)
    _check_words(words, sentences, places, room, max_length)
    start, end = cut(words, room, stride)
    row = owners(words, start, end)
    inner = words.starts[end] - words.starts[start]
    starts = row_splits(inner + len(before) + len(after))
    tokens = np.empty(starts[-1], np.int32)
    for i, id_ in enumerate(before):
        tokens[starts[:-1] + i] = id_
    for i, id_ in enumerate(after):
        tokens[starts[1:] - len(after) + i] = id_
    inside = ragged_arange(starts[:-1] + len(before), inner)
    tokens[inside] = words.tokens[ragged_arange(words.starts[start], inner)]
    first = len(before) + words.starts[:-1] - words.starts[start][row]
    return WordRows(
        examples=Examples(
            tokens=tokens,
            starts=starts,
            second=np.diff(starts).astype(np.int32),
            pad_id=pad_id(tokenizer.special_ids),
        ),
        sentence=np.searchsorted(words.sentences, start, side="right") - 1,
        starts=words.sentences,
        row=row,
        first=first,
        last=first + np.diff(words.starts) - 1,
        nothing=words.nothing,
    )


def cut(words: Words, room: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The first word of each window and the word after its last one, int64 [M], in order.

    A sentence that fits is one window. Else each window takes as many words as fit, and starts
    with as many of the one before as `stride` tokens hold and leave room for a new word.
    """
    first, at = words.sentences, words.starts
    is_long = np.diff(at[first]) > room
    windows = [
        window
        for i in np.flatnonzero(is_long)
        for window in _windows(at, int(first[i]), int(first[i + 1]), room, stride)
    ]
    long = np.array(windows, np.int64).reshape(-1, 2)
    start = np.concatenate([first[:-1][~is_long], long[:, 0]])
    end = np.concatenate([first[1:][~is_long], long[:, 1]])
    order = np.argsort(start)  # no two windows start with the same word
    return start[order], end[order]


def _windows(
    at: np.ndarray, start: int, stop: int, room: int, stride: int
) -> Iterator[tuple[int, int]]:
    """Windows of the words from `start` to `stop`, none of them longer than `room`."""
    while True:
        end = min(int(np.searchsorted(at, at[start] + room, side="right")) - 1, stop)
        yield start, end
        if end == stop:
            return
        shared = min(stride, room - int(at[end + 1] - at[end]))
        start = int(np.searchsorted(at, at[end] - shared))


def owners(words: Words, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """The window that each word belongs to, int64 [W]; see the top of this file."""
    counts = end - start
    window, word = np.repeat(np.arange(len(start)), counts), ragged_arange(start, counts)
    left = words.starts[word] - words.starts[start][window]
    right = words.starts[end][window] - words.starts[word + 1]
    order = np.lexsort((window, -np.minimum(left, right), word))
    _, best = np.unique(word[order], return_index=True)
    return window[order][best]


def _check_room(room: int, max_length: int, stride: int) -> None:
    if room < 1:
        raise UserError(
            "the rows have no room for words",
            where="data.max_length",
            expected=f"more than {max_length - room} tokens",
            got=max_length,
        )
    if stride > room // 2:
        raise UserError(
            "the windows of a long sentence would share more than half of their tokens",
            where="task.stride",
            expected=f"at most {room // 2}, half of what a row of {max_length} tokens holds",
            got=stride,
        )


def _check_words(
    words: Words,
    sentences: Sequence[Sequence[str]],
    places: Sequence[str],
    room: int,
    max_length: int,
) -> None:
    lengths = np.diff(words.starts)
    if not (lengths > room).any():
        return
    word = int(np.argmax(lengths > room))
    sentence = int(np.searchsorted(words.sentences, word, side="right")) - 1
    index = word - int(words.sentences[sentence])
    text = sentences[sentence][index]
    raise UserError(
        "a word is longer than a row",
        where=f"{places[sentence]}, word {index}",
        expected=f"at most {room} tokens, which data.max_length={max_length} has room for",
        got=f"{lengths[word]} tokens of {text[:60]!r}{'...' * (len(text) > 60)}",
        fix="raise data.max_length, or shorten the word",
    )
