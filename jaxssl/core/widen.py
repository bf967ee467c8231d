"""The least precision of sums: norms, softmax and losses."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """`x` in float32, or in its own dtype if that is wider (float64, under `jax.enable_x64`)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
