"""One vector a row."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast

Pooling = Literal["cls", "mean", "last"]


def pool(hidden: jax.Array, segment_ids: jax.Array, how: Pooling) -> jax.Array:
    """The first token, the mean of all real tokens (in float32), or the last real token.

    Args:
      hidden: [B, T, H].
      segment_ids: [B, T]; 0 is padding, at the end of a row.

    Returns:
      [B, H] in the dtype of `hidden`.
    """
    if how == "cls":
        return hidden[:, 0]
    real = segment_ids > 0
    if how == "last":
        last = jnp.maximum(jnp.sum(real, axis=1) - 1, 0)
        return jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    weights = real[..., None].astype(jnp.promote_types(hidden.dtype, jnp.float32))
    total = jnp.sum(upcast(hidden) * weights, axis=1)
    return (total / jnp.maximum(jnp.sum(weights, axis=1), 1)).astype(hidden.dtype)


def states_at(hidden: jax.Array, positions: jax.Array) -> jax.Array:
    """The hidden states at some positions of each row, side by side: [B, P * H].

    Args:
      hidden: [B, T, H].
      positions: int [B, P]. One beyond the row, as a row of padding may have, takes the last token.
    """
    at = jnp.minimum(positions, hidden.shape[1] - 1)
    taken = jnp.take_along_axis(hidden, at[..., None], axis=1)
    return taken.reshape(len(hidden), -1)
