"""Marked spans before other words (ERNIE, Sun et al., 2019)."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.objectives.masking.units import Chosen, Row, Units, Words, shuffled, words_of


@dataclass(frozen=True, kw_only=True)
class Marked(Units):
    """Marked spans (names, terms) all or nothing, preferred by a share, and whole words.

    A share of each document's count goes to marked spans, taken in random order; the one that would
    go over the share is taken with the probability of what is left of it over the span's length,
    so that the mean number of tokens is exactly the share's where there are spans enough. Words
    fill what is left, and further spans what the words leave. Nothing goes over the count: what
    does not fit is skipped. What a row cuts off of a span is a span.

    The references, and what is done otherwise here:

    - ERNIE 1.0 (PaddlePaddle/ERNIE, ernie/reader/pretraining.py) marks words, phrases and
      entities beforehand and takes each unit with the same probability, .15; a coin for each file
      says whether units or single tokens are taken. `share: null` does the first: spans and words
      are taken as units that are equally likely, and the number of tokens (there of units) is
      exact. For the second give the objective two streams or two terms.
    - SpanBERT's variant with entities takes one of them in half of the draws, and random words in
      the others (.5). Here the share is of tokens, not of draws: 0.5 is a third of the draws where
      spans have two words.
    """

    name: Literal["marked"] = "marked"
    """What is chosen as a whole."""
    share: float | None = 0.5
    """Share of the chosen tokens of a document that are of marked spans, where there are enough of
    them and of words; null prefers neither."""

    def __post_init__(self):
        if self.share is not None and not 0 <= self.share <= 1:
            raise UserError(
                "the share of marked spans is out of range",
                where="share",
                expected="0 to 1, or null",
                got=self.share,
            )

    @property
    def reads_marks(self) -> bool:
        """They are all that it is about."""
        return True

    def choose(self, key: jax.Array, row: Row) -> Chosen:
        """Per document marked spans up to the share, words, and spans again."""
        units, is_span = units_of(row)
        order_key, coin_key = jax.random.split(key)
        spans_last = jnp.zeros_like(is_span) if self.share is None else ~is_span
        # Documents lie side by side in the order, in each one spans before words.
        order, place = shuffled(order_key, 2 * units.segment + spans_last[:-1])
        coins = jax.random.uniform(coin_key, order.shape)
        used = jnp.zeros(row.quota.shape[0] + 1, jnp.int32)
        taken = self._first(units, is_span, order, place // 2, coins, row.quota)
        if self.share is not None:
            used = used.at[units.segment].add(jnp.where(taken, units.size, 0)[:-1])
            taken |= _filled_up(units, is_span & ~taken, order, place // 2, row.quota, used)
        chosen = taken[units.number] & row.candidates
        return Chosen(chosen, chosen & units.begins)

    def _first(self, units: Words, is_span, order, segment, coins, quota) -> jax.Array:
        """The spans that the share has room for and the words that the quota has: bool [T + 1]."""
        T = order.shape[0]

        def step(carry, item):
            current, used, is_full = carry
            segment, unit, coin = item
            new = segment != current
            used, is_full = jnp.where(new, 0, used), is_full & ~new
            size, most = units.size[unit], quota[jnp.minimum(segment, T)]
            take = (segment <= T) & (used + size <= most)
            if self.share is not None:
                left = self.share * most - used
                spans = is_span[unit]
                over = take & spans & (size > left)
                take &= ~spans | (~is_full & (coin * size < left))
                is_full |= over
            return (segment, used + jnp.where(take, size, 0), is_full), take

        start = (jnp.asarray(-1, segment.dtype), jnp.asarray(0, jnp.int32), jnp.asarray(False))
        _, takes = jax.lax.scan(step, start, (segment, order, coins))
        return jnp.zeros(T + 1, bool).at[order].set(takes).at[T].set(False)


def units_of(row: Row) -> tuple[Words, jax.Array]:
    """Marked spans and, outside of them, words, as `words_of` numbers words; and which of them are
    spans, bool [T + 1]."""
    assert row.marks is not None, "rows of a store with marks"
    T = row.segment_ids.shape[0]
    inside = row.marks > 0
    before = jnp.concatenate([jnp.zeros(1, bool), inside[:-1]])
    starts = jnp.where(inside, (row.marks == 1) | ~before, row.word_starts | before)
    units = words_of(row._replace(word_starts=starts))
    is_span = jnp.zeros(T + 1, bool).at[units.number].max(inside).at[T].set(False)
    return units, is_span


def _filled_up(units: Words, may, order, segment, quota, used) -> jax.Array:
    """Of the units that may be taken those that still fit, bool [T + 1].

    Args:
      may: bool [T + 1].
      order: int32 [T], the units of a document side by side.
      segment: int32 [T], the documents in this order.
      quota: int32 [T + 1], of each document.
      used: int32 [T + 2], how much of it is used up.
    """
    T = order.shape[0]

    def step(carry, item):
        current, total = carry
        segment, unit = item
        total = jnp.where(segment == current, total, used[segment])
        size = units.size[unit]
        take = may[unit] & (segment <= T) & (total + size <= quota[jnp.minimum(segment, T)])
        return (segment, total + jnp.where(take, size, 0)), take

    start = (jnp.asarray(-1, segment.dtype), jnp.asarray(0, jnp.int32))
    _, takes = jax.lax.scan(step, start, (segment, order))
    return jnp.zeros(T + 1, bool).at[order].set(takes).at[T].set(False)
