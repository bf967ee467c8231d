"""Dropout whose mask is a hash of the element's position.

Threefry spends about a hundred operations on each element, which on a CPU makes dropout the dearest
part of a small model, and on an accelerator not free. Here each element costs one round of an
integer mixer. The mask depends on the key and the global position alone, so it is the same on any
mesh, and the backward pass computes it again instead of keeping it.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 with avalanche (the `lowbias32` multipliers of Wellons' hash
    prospector)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hash_bits(key: jax.Array, shape: tuple[int, ...], rows: jax.Array | None = None) -> jax.Array:
    """uint32 bits of `shape`, a function of the key and of each element's global position.

    The leading axes are hashed once a row and the last axis once an element; the number of rows
    must be below 2**32.

    Args:
      rows: uint32 [B], the place that each index of the first axis stands for; None: itself.
    """
    assert math.prod(shape[:-1]) < 2**32, shape
    place = jnp.zeros(shape[:-1] + (1,), jnp.uint32)
    for axis, size in enumerate(shape[:-1]):
        index = jax.lax.broadcasted_iota(jnp.uint32, place.shape, axis)
        if axis == 0 and rows is not None:
            index = rows.astype(jnp.uint32).reshape(-1, *(1,) * (place.ndim - 1))
        place = place * jnp.uint32(size) + index
    return hash_bits_at(key, place, jax.lax.broadcasted_iota(jnp.uint32, shape, len(shape) - 1))


def hash_bits_at(key: jax.Array, place: jax.Array, column: jax.Array) -> jax.Array:
    """uint32 bits of elements in columns of places [..., 1]."""
    first, second = jax.random.key_data(key)[-2:]  # other generators' keys have more words
    row = mix(mix(place ^ first) + second)
    return mix(row + column * jnp.uint32(0x9E3779B9))


Bits = Callable[[jax.Array, tuple[int, ...], jax.Array | None], jax.Array]
"""Of a key, a shape, and the places of its rows; see `hash_bits`."""


def dropout(
    x: jax.Array,
    rate: float,
    key: jax.Array | None,
    rows: jax.Array | None = None,
    bits: Bits = hash_bits,
) -> jax.Array:
    """`x` with each element zeroed with probability `rate`, the others scaled by 1 / (1 - rate).

    Args:
      key: a typed key; None means evaluation: `x` is returned as it is.
      rows: uint32 [B], the places in the global batch of the rows of `x` [B, ...], so that a part
        of a batch is dropped as in the whole; None: 0, 1, 2, ... as they come.
      bits: where elements lie otherwise in `x` than the mask is hashed for.
    """
    return x if key is None or rate == 0.0 else _drop(x, key, rows, rate, bits)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _drop(x: jax.Array, key: jax.Array, rows: jax.Array | None, rate: float, bits: Bits):
    keep = bits(key, x.shape, rows) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * jnp.asarray(1.0 / (1.0 - rate), x.dtype), jnp.zeros((), x.dtype))


def _forward(x, key, rows, rate, bits):
    return _drop(x, key, rows, rate, bits), (key, rows)


def _backward(rate, bits, places, dy):
    return _drop(dy, *places, rate, bits), None, None


_drop.defvjp(_forward, _backward)
