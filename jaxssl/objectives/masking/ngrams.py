"""N-grams of whole words (ALBERT, Lan et al., 2020)."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.objectives.masking.units import Chosen, Row, Units, shuffled, words_of


@dataclass(frozen=True, kw_only=True)
class NGrams(Units):
    """One to `longest` whole words, n with a probability of 1 / n.

    Source: google-research/albert, create_pretraining_data.py. Words are taken in random order as
    beginnings; an n-gram that would overflow the count is made shorter, one that covers a chosen
    word is skipped. Other than there, no n-gram goes across a special token.
    """

    name: Literal["ngrams"] = "ngrams"
    """What is chosen as a whole."""
    longest: int = 3
    """Most words of one."""

    def __post_init__(self):
        check_at_least(1, self, "longest")

    def choose(self, key: jax.Array, row: Row) -> Chosen:
        """Goes through the words of each document in random order."""
        T, N = row.segment_ids.shape[0], self.longest
        order_key, length_key = jax.random.split(key)
        words = words_of(row)
        order, segment = shuffled(order_key, words.segment)
        ends = jnp.arange(T)[:, None] + jnp.arange(N)  # the last word of each n-gram
        inside = jnp.minimum(ends, T)
        fits_row = (ends < T) & (words.stretch[inside] == words.stretch[:T, None])
        sizes = jnp.cumsum(words.size[inside], axis=1)  # tokens of each n-gram [T, N]
        wanted = 1 + _lengths(length_key, jnp.sum(fits_row, axis=1), N)

        def step(carry, item):
            current, used, covered = carry
            segment, word = item
            used = jnp.where(segment == current, used, 0)
            left = row.quota[jnp.minimum(segment, T)] - used
            size = sizes[word]
            possible = (jnp.arange(1, N + 1) <= wanted[word]) & (size <= left)
            n = jnp.max(jnp.where(possible, jnp.arange(1, N + 1), 0))
            theirs = jax.lax.dynamic_slice(covered, (word,), (N,))
            taken = jnp.arange(N) < n
            take = (segment <= T) & (n > 0) & ~jnp.any(theirs & taken)
            covered = jax.lax.dynamic_update_slice(covered, theirs | (taken & take), (word,))
            used += jnp.where(take, size[jnp.maximum(n - 1, 0)], 0)
            return (segment, used, covered), take

        start = (jnp.asarray(-1, segment.dtype), jnp.asarray(0, jnp.int32), jnp.zeros(T + N, bool))
        (_, _, covered), takes = jax.lax.scan(step, start, (segment, order))
        first = jnp.zeros(T + 1, bool).at[order].set(takes).at[T].set(False)
        chosen = covered[words.number] & row.candidates
        return Chosen(chosen, chosen & words.begins & first[words.number])


def _lengths(key: jax.Array, possible: jax.Array, longest: int) -> jax.Array:
    """For each beginning a length less one, int32 [T]: 1 / n, of those that are possible there."""
    weights = jnp.asarray(1 / np.arange(1, longest + 1), jnp.float32)
    logits = jnp.where(jnp.arange(longest) < possible[:, None], jnp.log(weights), -jnp.inf)
    return jax.random.categorical(key, jnp.where(possible[:, None] > 0, logits, 0.0), axis=-1)
