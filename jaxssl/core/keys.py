"""Random keys: everything random is a pure function of a seed and of what it is for.

Three streams. Corruption (masks) is keyed by seed, epoch and example, so that it depends on nothing
else: not on the mesh, the batch size or a resume. Dropout is keyed by seed and step, initialisation
by the seed alone.
"""

import jax
import jax.numpy as jnp

from jaxssl.core.types import Batch

CORRUPTION, DROPOUT, INIT = 1, 2, 3


def seed_key(seed: jax.Array | int) -> jax.Array:
    """The typed key of a seed in [0, 2**32).

    Always Threefry, whatever JAX_DEFAULT_PRNG_IMPL says: a seed means the same everywhere, and
    `ops.dropout` reads the two words of the key.
    """
    return jax.random.key(seed, impl="threefry2x32")


def stream(seed: jax.Array | int, purpose: int) -> jax.Array:
    """The root key of one stream."""
    return jax.random.fold_in(seed_key(seed), purpose)


def numbered_seed(seed: int, number: int) -> int:
    """The seed of one of several that corrupt a batch apart, so that two do not draw alike.

    The first keeps the run's; numbers count by the golden ratio, as in Weyl's sequence.
    """
    return (seed + number * 0x9E3779B9) % 2**32


def init_key(seed: jax.Array | int) -> jax.Array:
    """The key that fresh parameters are drawn from."""
    return stream(seed, INIT)


def example_keys(seed: int, batch: Batch) -> jax.Array:
    """One key per row, from seed, epoch and the 64-bit example id: [B] typed keys."""
    root = stream(seed, CORRUPTION)

    def one(epoch, example_id):
        key = jax.random.fold_in(root, epoch.astype(jnp.uint32))
        return jax.random.fold_in(jax.random.fold_in(key, example_id[0]), example_id[1])

    return jax.vmap(one)(batch["epoch"], batch["example_id"])


def dropout_key(seed: int, step: jax.Array | int) -> jax.Array:
    """The key of one step's dropout; its rows are told apart by their places in the batch."""
    return jax.random.fold_in(stream(seed, DROPOUT), step)
