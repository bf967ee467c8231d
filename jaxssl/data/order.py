"""The global order of an epoch: a keyed permutation that needs no memory.

A Feistel network over the grid [0, a) x [0, b) with a * b >= size permutes the grid; indices that
land past `size` walk on along their cycle until they land inside (Black and Rogaway 2002, "Ciphers
with arbitrary finite domains"). The grid exceeds `size` by fewer than b cells, so walks are rare.
"""

import math

import numpy as np

from jaxssl.data import counter

_ROUNDS = 6
_PURPOSE = 0x6F72646572
"""Keeps the order's random bits apart from those of other uses of the same seed."""


def permute(indices: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Sends each index to its place in the permutation of [0, size) keyed by (seed, epoch).

    Args:
      indices: int64, any shape, each in [0, size).
      size: at least 1, below 2**62.
      seed: of the data order.
      epoch: another epoch is another permutation.

    Returns:
      int64 of the same shape; distinct for distinct indices.
    """
    indices = np.asarray(indices, np.int64)
    if indices.size and not (0 <= int(indices.min()) and int(indices.max()) < size):
        raise IndexError(f"indices {indices.min()}..{indices.max()} of an order of size {size}")
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    keys = counter.bits(counter.key(_PURPOSE, seed, epoch), np.arange(_ROUNDS))
    values = indices.astype(np.uint64).ravel()
    pending = np.arange(values.size)
    while pending.size:
        values[pending] = _network(values[pending], width, height, keys)
        pending = pending[values[pending] >= size]
    return values.astype(np.int64).reshape(indices.shape)


def _network(values: np.ndarray, width: int, height: int, keys: np.ndarray) -> np.ndarray:
    """One pass over the grid: each half is shifted by a keyed hash of the other, in turns."""
    a, b = np.uint64(width), np.uint64(height)
    high, low = values // b, values % b
    for turn in range(0, _ROUNDS, 2):
        high = (high + counter.mix(low * counter.STEP + keys[turn]) % a) % a
        low = (low + counter.mix(high * counter.STEP + keys[turn + 1]) % b) % b
    return high * b + low
