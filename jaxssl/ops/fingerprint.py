"""A number for the bits of an array, computed where the array lies."""

import jax
import jax.numpy as jnp

from jaxssl.ops.dropout import mix


def fingerprint(x: jax.Array) -> jax.Array:
    """uint32 []: a sum over all bits of `x`, equal on any mesh.

    Each word of 32 bits or fewer is mixed with its place before it is added modulo 2**32, so that
    a flipped bit and two values that changed places both show.
    """
    if x.dtype in (jnp.int4, jnp.uint4):
        x = x.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, length in enumerate(words.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place = place * jnp.uint32(length) + index
    return jnp.sum(mix(words ^ mix(place)), dtype=jnp.uint32)
