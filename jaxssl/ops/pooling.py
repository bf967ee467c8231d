"""One vector a row."""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len", "weightedmean", "last"]


def pool(hidden: jax.Array, segment_ids: jax.Array, how: Pooling) -> jax.Array:
    """One vector of a row's real tokens: `cls` is the first, `last` the last, `max` the largest
    value of each feature, `mean` their mean, `mean_sqrt_len` their sum over the root of their
    number, `weightedmean` their mean where token n counts n times.

    Sums are in float32. A row without a token has zeros, or what stands in its padding.

    Args:
      hidden: [B, T, H].
      segment_ids: [B, T]; 0 is padding, at the end of a row.

    Returns:
      [B, H] in the dtype of `hidden`.
    """
    return _KINDS[how](hidden, segment_ids > 0)


def _first(hidden: jax.Array, real: jax.Array) -> jax.Array:
    del real
    return hidden[:, 0]


def _last(hidden: jax.Array, real: jax.Array) -> jax.Array:
    last = jnp.maximum(jnp.sum(real, axis=1) - 1, 0)
    return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]


def _max(hidden: jax.Array, real: jax.Array) -> jax.Array:
    found = jnp.max(jnp.where(real[..., None], hidden, -jnp.inf), axis=1)
    return jnp.where(jnp.any(real, axis=1)[:, None], found, 0).astype(hidden.dtype)


def _mean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    return _weighted(hidden, real, lambda count: count)


def _mean_sqrt_len(hidden: jax.Array, real: jax.Array) -> jax.Array:
    return _weighted(hidden, real, jnp.sqrt)


def _weightedmean(hidden: jax.Array, real: jax.Array) -> jax.Array:
    return _weighted(hidden, real * jnp.arange(1, real.shape[1] + 1), lambda total: total)


def _weighted(
    hidden: jax.Array, weights: jax.Array, divisor: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """The sum of tokens by weights [B, T], divided by something of the sum of the weights."""
    wide = weights[..., None].astype(jnp.promote_types(hidden.dtype, jnp.float32))
    total = jnp.sum(upcast(hidden) * wide, axis=1)
    return (total / divisor(jnp.maximum(jnp.sum(wide, axis=1), 1))).astype(hidden.dtype)


_KINDS: Mapping[Pooling, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "weightedmean": _weightedmean,
    "last": _last,
}


def states_at(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """The hidden states at some positions of each row, side by side: [B, P * H].

    Args:
      hidden: [B, T, H].
      positions: int [B, P]. One beyond the row, as a row of padding may have, takes the last token.
    """
    at = jnp.minimum(positions, hidden.shape[1] - 1)
    taken = jnp.take_along_axis(hidden, at[..., None], axis=1)
    return taken.reshape(len(hidden), -1)
