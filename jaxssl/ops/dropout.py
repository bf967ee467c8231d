"""Dropout whose mask is a hash of the element's position.

Threefry spends about a hundred operations on each element, which on a CPU makes dropout the dearest
part of a small model, and on an accelerator not free. Here each element costs one round of an
integer mixer. The mask depends on the key and the global position alone, so it is the same on any
mesh, and the backward pass computes it again instead of keeping it.
"""

import functools
import math

import jax
import jax.numpy as jnp


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 with avalanche (the `lowbias32` multipliers of Wellons' hash
    prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hash_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint32 bits of `shape`, a function of the key and of each element's global position.

    The leading axes are hashed once a row and the last axis once an element; the number of rows
    must be below 2**32.
    """
    assert math.prod(shape[:-1]) < 2**32, shape
    first, second = jax.random.key_data(key)[-2:]  # other generators' keys have more words
    row = jnp.zeros(shape[:-1] + (1,), jnp.uint32)
    for axis, size in enumerate(shape[:-1]):
        row = row * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, row.shape, axis)
    row = mix(mix(row ^ first) + second)
    column = jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1)
    return mix(row + column * jnp.uint32(0x9E3779B9))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with each element zeroed with probability `rate`, the others scaled by 1 / (1 - rate).

    Args:
      key: a typed key; None means evaluation: `x` is returned as it is.
    """
    return x if key is None or rate == 0.0 else _drop(x, key, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _drop(x: jax.Array, key: jax.Array, rate: float) -> jax.Array:
    keep = hash_bits(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _forward(x, key, rate):
    return _drop(x, key, rate), key


def _backward(rate, key, dy):
    return _drop(dy, key, rate), None


_drop.defvjp(_forward, _backward)
