"""Norms, softmax, losses and sums are computed in float32 at least."""

import jax
import jax.numpy as jnp


def upcast(x: jax.Array) -> jax.Array:
    """`x` in float32, or in its own dtype if that is wider (float64, under `jax.enable_x64`)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
