"""Distances between queries and keys, and what is added to the scores for them (Raffel et al.,
2020).

Shapes: T queries, S keys, N heads, R buckets.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def buckets_of(
    distances: np.ndarray, num_buckets: int, max_distance: int, both_ways: bool
) -> np.ndarray:
    """The bucket, int32, of each distance (the key's place less the query's).

    Half of the buckets of a side are for one distance each, the others for ranges that grow by a
    factor up to `max_distance`; the last one has all that is farther. Keys behind the query share
    bucket 0 where `both_ways` is not set: a causal stack does not see them. In float64 on the host:
    edges that are whole numbers in the formula (16, 32 and 64 for 32 buckets up to 128) are hit.
    Source: google-research/text-to-text-transfer-transformer, mesh_tensorflow's
    `_relative_position_bucket`.
    """
    behind, far = distances > 0, np.abs(distances)
    per_side = num_buckets // 2 if both_ways else num_buckets
    if not both_ways:
        far = np.where(behind, 0, far)
    exact = per_side // 2
    ratio = np.log(np.maximum(far, 1) / exact) / math.log(max_distance / exact)
    steps = np.floor(ratio * (per_side - exact) + 1e-9).astype(np.int64)
    bucket = np.where(far < exact, far, np.minimum(exact + steps, per_side - 1))
    return (bucket + np.where(behind & both_ways, per_side, 0)).astype(np.int32)


def bias_of_rows(of_distance: jax.Array, num_queries: int, num_keys: int) -> jax.Array:
    """[N, T, S] of queries and keys that stand at 0, 1, ...

    Two reshapes lay the distances out along the diagonals, so that the backward pass is a sum over
    the queries and no scatter of T x S numbers.

    Args:
      of_distance: [N, S + T], at `distance mod (S + T)` what is added for it.
    """
    N, width = of_distance.shape
    T, S = num_queries, num_keys
    assert width == S + T
    rows = jnp.broadcast_to(of_distance[:, None], (N, T, width)).reshape(N, T * width)
    return rows[:, : T * (width - 1)].reshape(N, T, width - 1)[:, :, :S]


def bias_of_slots(of_distance: jax.Array, positions: jax.Array, num_keys: int) -> jax.Array:
    """[B, N, T, S] of queries at `positions` [B, T] and keys in slots 0, 1, ...; else as
    `bias_of_rows`, of distances [N, R] by `distance mod R`."""
    distances = jnp.arange(num_keys) - positions[..., None]
    return jnp.moveaxis(of_distance[:, distances % of_distance.shape[1]], 0, 1)
