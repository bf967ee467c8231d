"""Rows of several texts: [B, K, T], and as rows of their own for a model, [B x K, T]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.types import Batch
from jaxssl.ops.dropout import mix

SEEDS = (np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B))
"""Of the two hashes of a text: together they are equal for two that differ once in 1e19 pairs."""


def fold_texts(batch: Batch, count: int) -> dict[str, Any]:
    """A batch whose entries are [B, K, ...] as one of B x K rows, the texts of a row side by side.

    `row` [B], the rows' places in the global batch, becomes the texts' places [B x K], so that each
    text has dropout of its own, on any number of devices and microbatches.

    Args:
      count: K, texts a row.
    """
    folded = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items() if name != "row"}
    if "row" in batch:
        texts = jnp.arange(count, dtype=jnp.uint32)
        folded["row"] = (batch["row"][:, None] * count + texts).reshape(-1)
    return folded


def unfold_texts(x: jax.Array, count: int) -> jax.Array:
    """What a model makes of folded rows, [B x K, ...], as [B, K, ...]."""
    return x.reshape(-1, count, *x.shape[1:])


def key_of_tokens(batch: Batch) -> jax.Array:
    """uint32 [B, 2] of the tokens of each row: two sums of hashes that go by the place."""
    tokens = batch["tokens"].astype(jnp.uint32)
    places = jnp.arange(tokens.shape[1], dtype=jnp.uint32)
    sums = [
        jnp.sum(jnp.where(batch["segment_ids"] > 0, mix(tokens ^ mix(places + seed)), 0), axis=1)
        for seed in SEEDS
    ]
    return jnp.stack(sums, axis=1).astype(jnp.uint32)
