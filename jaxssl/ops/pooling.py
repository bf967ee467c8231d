"""One vector a row."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.widen import widen

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
    total = jnp.sum(widen(hidden) * weights, axis=1)
    return (total / jnp.maximum(jnp.sum(weights, axis=1), 1)).astype(hidden.dtype)
