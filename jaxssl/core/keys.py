"""Random keys: everything random is a pure function of a seed and of what it is for.

Two streams. Corruption (masks) is keyed by seed, epoch and example, so that it depends on nothing
else: not on the mesh, the batch size or a resume. Dropout is keyed by seed, step and microbatch.
"""

import jax
import jax.numpy as jnp

from jaxssl.core.types import Batch

CORRUPTION, DROPOUT, INIT = 1, 2, 3


def stream(seed: int, purpose: int) -> jax.Array:
    """The root key of one stream."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def example_keys(seed: int, batch: Batch) -> jax.Array:
    """One key per row, from seed, epoch and the 64-bit example id: [B] typed keys."""
    root = stream(seed, CORRUPTION)

    def one(epoch, example_id):
        key = jax.random.fold_in(root, epoch.astype(jnp.uint32))
        return jax.random.fold_in(jax.random.fold_in(key, example_id[0]), example_id[1])

    return jax.vmap(one)(batch["epoch"], batch["example_id"])


def dropout_key(seed: int, step: jax.Array, microbatch: jax.Array | int = 0) -> jax.Array:
    """The key of one microbatch's dropout at one step."""
    key = jax.random.fold_in(stream(seed, DROPOUT), step)
    return jax.random.fold_in(key, microbatch)
