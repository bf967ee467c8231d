"""Predictions for windows of sentences, put together to sentences again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxssl.data.word_windows import WordRows
from jaxssl.tasks.words import Sentences


class Window(NamedTuple):
    """What the predictions of one row are mapped back with."""

    sentence: int
    """Which sentence it is of."""
    windows: int
    """How many windows that sentence has."""
    words: list[str]
    """The whole sentence."""
    tags: list[str] | None
    """Those of the whole sentence, as in the file; None to predict them."""
    index: np.ndarray
    """int64 [k], which words belong to this window."""
    column: np.ndarray
    """int64 [k], at which token each of them has its tag."""


def windows_of(
    rows: WordRows, column: np.ndarray, sentences: Sentences, tags: Sentences | None
) -> list[Window]:
    """A reference for each row; `column` [W] is where each word has its tag."""
    order = np.argsort(rows.row, kind="stable")
    bounds = np.searchsorted(rows.row[order], np.arange(1, len(rows.sentence)))
    counts = np.bincount(rows.sentence)
    return [
        Window(
            sentence=int(sentence),
            windows=int(counts[sentence]),
            words=sentences[sentence],
            tags=None if tags is None else tags[sentence],
            index=words - rows.starts[sentence],
            column=column[words],
        )
        for sentence, words in zip(rows.sentence, np.split(order, bounds))
    ]


@dataclass(frozen=True, eq=False)
class Tagged:
    """A sentence with its predictions.

    Attributes:
      gold: the file's tags, None if there are none.
      numbers: int [n], the label predicted for each word.
      probability: float [n], of that label.
    """

    words: list[str]
    gold: list[str] | None
    numbers: np.ndarray
    probability: np.ndarray


def joined(
    predictions: Mapping[str, np.ndarray], references: Sequence[Window]
) -> tuple[list[Tagged], int]:
    """Sentences from their windows, and how many were left out for want of a window."""
    sentences, left_out = [], 0
    for rows in _by_sentence(references):
        window = references[rows[0]]
        if len(rows) < window.windows:
            left_out += 1
            continue
        numbers = np.zeros(len(window.words), np.int64)
        probability = np.zeros(len(window.words))
        for row in rows:
            at = references[row]
            numbers[at.index] = predictions["tag"][row, at.column]
            probability[at.index] = predictions["probability"][row, at.column]
        sentences.append(Tagged(window.words, window.tags, numbers, probability))
    return sentences, left_out


def _by_sentence(references: Sequence[Window]) -> Iterator[list[int]]:
    """The rows of each sentence; they are next to each other."""
    rows: list[int] = []
    for row, window in enumerate(references):
        if rows and references[rows[-1]].sentence != window.sentence:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
