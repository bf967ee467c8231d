"""Normalisation, in float32 at least, whatever the compute dtype."""

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float) -> jax.Array:
    """Layer normalisation over the last axis (Ba et al., 2016), returned in the dtype of `x`."""
    wide = upcast(x)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    centred = wide - mean
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + epsilon)
    scaled = normal * scale
    return (scaled if bias is None else scaled + bias).astype(x.dtype)


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    """Root mean square normalisation over the last axis (Zhang & Sennrich, 2019), returned in the
    dtype of `x`."""
    wide = upcast(x)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + epsilon) * scale).astype(x.dtype)
