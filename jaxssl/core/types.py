"""Types that several layers share."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Batch = Mapping[str, Any]
"""Fixed-shape arrays by name: `tokens`, `segment_ids`, `positions` int32 [B, T], `epoch` int32 [B],
`example_id` uint32 [B, 2], and what a row source or an objective adds. In training also `step`
int32 [B], the number of the step: for what moves with the run."""


def batch_shape(batch: Batch) -> tuple[int, ...]:
    """The places of a batch: [B, T], or [B, K, T] of K texts a row. They are those of its segments:
    token ids may be absent."""
    return tuple(batch["segment_ids"].shape)


Params = Mapping[str, Any]
"""Nested plain dicts of arrays."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """What objectives must know of the tokenizer. Compared by identity, so hashable.

    Attributes:
      size: number of token ids.
      special_ids: role to id (`pad`, `unk`, `cls`, `sep`, `mask`, `bos`, `eos`), absent roles
        left out.
      document_end: the id that closes each document.
      word_starts: bool [size], True where a piece begins a word.
      special_tokens: all special tokens by how they are written, with their ids.
      find_sentence_ends: makes bool [n], n at most as many as `word_starts`, True where a piece
        ends a sentence; None of a tokenizer of which nobody knows.
    """

    size: int
    special_ids: Mapping[str, int]
    document_end: int
    word_starts: np.ndarray
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    find_sentence_ends: Callable[[], np.ndarray] | None = None

    @functools.cached_property
    def sentence_ends(self) -> np.ndarray:
        """bool, as many as `word_starts`, True where a piece ends a sentence; found when they are
        asked for."""
        ends = np.zeros(len(self.word_starts), bool)
        found = [] if self.find_sentence_ends is None else self.find_sentence_ends()
        ends[: len(found)] = found
        return ends

    @property
    def reserved(self) -> tuple[int, ...]:
        """The ids that are never masked nor drawn as a random replacement, ascending."""
        unknown = self.special_ids.get("unk")
        ids = {i for i in self.special_ids.values() if i != unknown} | {self.document_end}
        return tuple(sorted(ids))
