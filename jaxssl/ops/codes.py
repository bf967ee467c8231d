"""Arrays held as codes of 8 or 4 bits, with a scale for each block of values.

For parameters that are frozen: they are decoded where they are used, and have no gradient. Each
value is coded by itself, given its block's scale, so that codes lie on a mesh as their array would.

Codes of 4 bits are JAX's int4 and uint4, two in a byte. A TPU multiplies by them as fast as by
bfloat16 (2,048 rows of 4,096 by 4,096, v5e, by its compiler: both 0.49 ms; packed and unpacked by
hand 1.2 ms). A CPU takes them apart into bytes first, all that a program is given.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.precision import Codes

BLOCK = 64
"""Values with a scale in common, along an axis (QLoRA's number). Scales are kept in the array's
dtype: in float32 they add half a bit to each value."""
CODES = ".codes"
"""Comes behind the path of an array's codes where each array has a name."""
DTYPES = {"int8": jnp.int8, "int4": jnp.int4, "nf4": jnp.uint4}
TOP = {"int8": 127.0, "int4": 7.0, "nf4": 1.0}
"""What a block's largest value is in codes."""
QUANTILES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""What the 16 codes of nf4 stand for: of a normal distribution (Dettmers et al., 2023, arXiv
2305.14314, appendix E)."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("codes", "scale"), meta_fields=("form",)
)
@dataclass(frozen=True)
class Coded:
    """An array as codes.

    Attributes:
      codes: int8, int4, or uint4 of nf4, of the array's shape.
      scale: of each block: the array's shape, but for the axis that blocks lie along, in the
        array's dtype.
    """

    codes: Any
    scale: Any
    form: Codes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.codes.shape)

    @property
    def ndim(self) -> int:
        """Of the array."""
        return len(self.codes.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Of the values when they are decoded."""
        return self.scale.dtype


def block_of(size: int) -> int:
    """The values of a block along an axis of this size: 64, or the largest part of that which
    divides the axis."""
    return math.gcd(size, BLOCK)


def encode(x: jax.Array, form: Codes, axis: int) -> Coded:
    """`x` in codes, each value the nearest that its block has.

    Args:
      axis: that blocks lie along; its blocks are of two values or more.
    """
    blocks = _split(x.astype(jnp.float32), axis, block_of(x.shape[axis]))
    largest = jnp.max(jnp.abs(blocks), axis + 1, keepdims=True)
    scale = (largest / TOP[form]).astype(x.dtype)
    scaled = blocks / jnp.where(scale == 0, 1, scale).astype(jnp.float32)
    if form == "nf4":
        limits = [np.float32((low + high) / 2) for low, high in zip(QUANTILES, QUANTILES[1:])]
        above = [(scaled > limit).astype(jnp.uint8) for limit in limits]
        codes = functools.reduce(jnp.add, above)
    else:
        codes = jnp.clip(jnp.round(scaled), -TOP[form], TOP[form])
    codes = jnp.reshape(codes, x.shape).astype(DTYPES[form])
    return Coded(codes, jnp.squeeze(scale, axis + 1), form)


def decode(x: Coded) -> jax.Array:
    """The values of an array in codes, in the dtype it had."""
    axis = next(i for i, (a, b) in enumerate(zip(x.shape, x.scale.shape)) if a != b)
    if x.form == "nf4":
        wide = jnp.array(QUANTILES, jnp.float32).at[x.codes.astype(jnp.int32)]
        wide = wide.get(mode="promise_in_bounds")
    else:
        wide = x.codes.astype(jnp.float32)
    blocks = _split(wide, axis, x.shape[axis] // x.scale.shape[axis])
    made = blocks * jnp.expand_dims(x.scale, axis + 1).astype(jnp.float32)
    return made.reshape(x.shape).astype(x.dtype)


def _split(x: jax.Array, axis: int, size: int) -> jax.Array:
    """`x` with an axis as two: of parts, and of the `size` values of each."""
    return x.reshape(*x.shape[:axis], x.shape[axis] // size, size, *x.shape[axis + 1 :])


def bits_of(dtype: Any) -> int:
    """That a device holds of a value: NumPy counts a whole byte for four bits, of which devices
    keep two in one."""
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    return jnp.dtype(dtype).itemsize * 8


def values(x: jax.Array | Coded) -> jax.Array:
    """An array, decoded where it is in codes."""
    return decode(x) if isinstance(x, Coded) else x


def by_part(x: jax.Array | Coded) -> list[tuple[str, jax.Array]]:
    """The arrays that an array is held as, each with what comes behind its path."""
    return [(CODES, x.codes), (".scale", x.scale)] if isinstance(x, Coded) else [("", x)]
