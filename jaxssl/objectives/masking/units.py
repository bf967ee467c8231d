"""What is chosen as a whole: single tokens, words; and the contract of other units.

A new unit is one file, and a line in `registry.py`. Special tokens and padding are never chosen.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Row(NamedTuple):
    """One row of a batch, as the choice sees it.

    Attributes:
      segment_ids: int32 [T], 0 is padding; documents count from 1.
      candidates: bool [T], the tokens that may be chosen.
      word_starts: bool [T], True where a token begins a word.
      quota: int32 [T + 1], how many tokens to choose of each document, by its number.
      marks: uint8 [T], 1 where a marked span begins, 2 where it goes on (a span that the row cuts
        may begin so), 0 elsewhere; None but for units that read them.
    """

    segment_ids: jax.Array
    candidates: jax.Array
    word_starts: jax.Array
    quota: jax.Array
    marks: jax.Array | None = None


class Chosen(NamedTuple):
    """The tokens that must be guessed.

    Attributes:
      tokens: bool [T].
      begins: bool [T], the first token of each unit among them.
    """

    tokens: jax.Array
    begins: jax.Array


@dataclass(frozen=True, kw_only=True)
class Units(ABC):
    """How tokens are chosen; its fields are its configuration."""

    name: str
    """What is chosen as a whole."""

    @property
    def reads_marks(self) -> bool:
        """Whether rows must say which tokens lie in marked spans."""
        return False

    @abstractmethod
    def choose(self, key: jax.Array, row: Row) -> Chosen:
        """The choice in one row, as many tokens of each document as its quota says, or fewer."""


@dataclass(frozen=True, kw_only=True)
class Tokens(Units):
    """Each token by itself, as in BERT."""

    name: Literal["tokens"] = "tokens"
    """What is chosen as a whole."""

    def choose(self, key: jax.Array, row: Row) -> Chosen:
        """Per document, the `quota` candidates of lowest priority."""
        T = row.segment_ids.shape[0]
        priority = jax.random.uniform(key, (T,))
        segment = jnp.where(row.candidates, row.segment_ids, T + 1)
        segment, _, index = lax.sort((segment, priority, jnp.arange(T)), num_keys=2)
        rank = jnp.arange(T) - run_starts(segment)
        take = (rank < row.quota[jnp.minimum(segment, T)]) & (segment <= T)
        chosen = jnp.zeros(T, bool).at[index].set(take)
        return Chosen(chosen, chosen)


@dataclass(frozen=True, kw_only=True)
class WholeWords(Units):
    """Whole words, as in BERT's later models: one that would overflow the count is skipped."""

    name: Literal["words"] = "words"
    """What is chosen as a whole."""

    def choose(self, key: jax.Array, row: Row) -> Chosen:
        """Per document, words in order of priority, each taken if it still fits into `quota`."""
        T = row.segment_ids.shape[0]
        words = words_of(row)
        order, segment = shuffled(key, words.segment)

        def step(carry, item):
            current, used = carry
            segment, word = item
            used = jnp.where(segment == current, used, 0)
            fits = (segment <= T) & (used + words.size[word] <= row.quota[jnp.minimum(segment, T)])
            return (segment, used + jnp.where(fits, words.size[word], 0)), fits

        start = (jnp.asarray(-1, segment.dtype), jnp.asarray(0, jnp.int32))
        _, fits = lax.scan(step, start, (segment, order))
        taken = jnp.zeros(T + 1, bool).at[order].set(fits).at[T].set(False)
        chosen = taken[words.number] & row.candidates
        return Chosen(chosen, chosen & words.begins)


class Words(NamedTuple):
    """The words of a row, numbered from 0 in the order of their tokens.

    Attributes:
      number: int32 [T], each token's word; T where a token is no candidate.
      begins: bool [T], the first token of each word.
      size: int32 [T + 1], how many tokens each word has; 0 of those that are not there.
      segment: int32 [T], the document of each word; T + 1 of those that are not there.
      stretch: int32 [T + 1], words with equal numbers lie side by side: no special token and no end
        of a document parts them.
    """

    number: jax.Array
    begins: jax.Array
    size: jax.Array
    segment: jax.Array
    stretch: jax.Array


def words_of(row: Row) -> Words:
    """Candidates as words. A word begins where a token does, and behind what is no candidate."""
    T = row.segment_ids.shape[0]
    before = jnp.concatenate([jnp.zeros(1, bool), row.candidates[:-1]])
    changes = row.segment_ids[1:] != row.segment_ids[:-1]
    breaks = row.candidates & (~before | jnp.concatenate([jnp.ones(1, bool), changes]))
    begins = row.candidates & (row.word_starts | breaks)
    number = jnp.where(row.candidates, jnp.cumsum(begins) - 1, T)
    size = jnp.zeros(T + 1, jnp.int32).at[number].add(1).at[T].set(0)
    segment = (
        jnp.full(T + 1, T + 1).at[number].set(jnp.where(row.candidates, row.segment_ids, T + 1))
    )
    stretch = jnp.full(T + 1, -1).at[number].max(jnp.where(row.candidates, jnp.cumsum(breaks), -1))
    return Words(number, begins, size, segment[:T], stretch)


def shuffled(key: jax.Array, segment: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Indices [T] of what lies in documents `segment` [T], those of a document side by side and in
    random order, and the documents in that order."""
    T = segment.shape[0]
    priority = jax.random.uniform(key, (T,))
    ordered, _, index = lax.sort((segment, priority, jnp.arange(T)), num_keys=2)
    return index, ordered


def run_starts(sorted_values: jax.Array) -> jax.Array:
    """For each element of a sorted array, the index where its run of equal values starts."""
    index = jnp.arange(sorted_values.shape[0])
    fresh = jnp.concatenate([jnp.ones(1, bool), sorted_values[1:] != sorted_values[:-1]])
    return lax.cummax(jnp.where(fresh, index, 0))
