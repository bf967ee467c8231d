"""Which tokens a masked language model must guess, chosen on device, row by row.

The count follows BERT exactly, per document: `max(1, round(length * rate))`, where the length
includes special tokens and rounding is half to even; special tokens are never chosen. Reference:
google-research/bert, create_pretraining_data.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@functools.cache
def quota_table(longest: int, rate: float, limit: int | None = None) -> np.ndarray:
    """How many tokens are chosen of a document of each length: int32 [longest + 1].

    A table, because Python's rounding in double precision is the reference and a device's is not.
    """
    counts = [max(1, round(length * rate)) for length in range(longest + 1)]
    counts[0] = 0
    return np.minimum(np.array(counts, np.int32), limit or longest)


def choose(
    key: jax.Array,
    segment_ids: jax.Array,
    candidates: jax.Array,
    rate: float,
    slots: int,
    limit: int | None = None,
    word_starts: jax.Array | None = None,
) -> jax.Array:
    """The chosen positions of one row, ascending, padded with T: int32 [slots].

    Within each document the candidates are shuffled and as many taken as `quota_table` says. With
    `word_starts` whole words are: a word that would overflow the count is skipped, as in BERT.

    Args:
      key: this row's.
      segment_ids: int32 [T], 0 is padding.
      candidates: bool [T], the tokens that may be chosen.
      word_starts: bool [T], True where a token begins a word; None chooses token by token.
    """
    T = segment_ids.shape[0]
    lengths = jnp.zeros(T + 1, jnp.int32).at[segment_ids].add(1).at[0].set(0)
    quota = jnp.asarray(quota_table(T, rate, limit))[lengths]
    priority = jax.random.uniform(key, (T,))
    if word_starts is None:
        chosen = _take_tokens(segment_ids, candidates, priority, quota)
    else:
        chosen = _take_words(segment_ids, candidates, priority, quota, word_starts)
    positions = jnp.sort(jnp.where(chosen, jnp.arange(T), T))
    if slots > T:
        positions = jnp.concatenate([positions, jnp.full(slots - T, T, positions.dtype)])
    return positions[:slots]


def _take_tokens(segment_ids, candidates, priority, quota):
    """Per document, the `quota` candidates of lowest priority."""
    T = segment_ids.shape[0]
    segment = jnp.where(candidates, segment_ids, T + 1)
    segment, _, index = lax.sort((segment, priority, jnp.arange(T)), num_keys=2)
    rank = jnp.arange(T) - _run_starts(segment)
    take = (rank < quota[jnp.minimum(segment, T)]) & (segment <= T)
    return jnp.zeros(T, bool).at[index].set(take)


def _take_words(segment_ids, candidates, priority, quota, word_starts):
    """Per document, words in order of priority, each taken if it still fits into `quota`."""
    T = segment_ids.shape[0]
    before = jnp.concatenate([jnp.zeros(1, bool), candidates[:-1]])
    new_document = jnp.concatenate([jnp.ones(1, bool), segment_ids[1:] != segment_ids[:-1]])
    starts = candidates & (word_starts | ~before | new_document)
    word = jnp.where(candidates, jnp.cumsum(starts) - 1, T)
    size = jnp.zeros(T + 1, jnp.int32).at[word].add(1)
    segment_of = jnp.full(T + 1, T + 1).at[word].set(jnp.where(candidates, segment_ids, T + 1))
    exists = (jnp.arange(T) < jnp.sum(starts)) & (segment_of[:T] <= T)
    order_key = jnp.where(exists, segment_of[:T], T + 1)
    segment, _, words = lax.sort((order_key, priority, jnp.arange(T)), num_keys=2)

    def step(carry, item):
        current, used = carry
        segment, word = item
        used = jnp.where(segment == current, used, 0)
        fits = (segment <= T) & (used + size[word] <= quota[jnp.minimum(segment, T)])
        return (segment, used + jnp.where(fits, size[word], 0)), fits

    start = (jnp.asarray(-1, segment.dtype), jnp.asarray(0, jnp.int32))
    _, fits = lax.scan(step, start, (segment, words))
    taken = jnp.zeros(T + 1, bool).at[words].set(fits).at[T].set(False)
    return taken[word] & candidates


def _run_starts(sorted_values: jax.Array) -> jax.Array:
    """For each element of a sorted array, the index where its run of equal values starts."""
    index = jnp.arange(sorted_values.shape[0])
    fresh = jnp.concatenate([jnp.ones(1, bool), sorted_values[1:] != sorted_values[:-1]])
    return lax.cummax(jnp.where(fresh, index, 0))


def random_tokens(
    key: jax.Array, shape: tuple[int, ...], size: int, reserved: tuple[int, ...]
) -> jax.Array:
    """Ids uniform over the vocabulary without `reserved` (ascending): int32 of `shape`."""
    ids = jax.random.randint(key, shape, 0, size - len(reserved))
    for special in reserved:
        ids = ids + (ids >= special)
    return ids
