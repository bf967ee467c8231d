"""What stands in the place of a token that must be guessed."""

import jax
import jax.numpy as jnp


def random_tokens(
    key: jax.Array, shape: tuple[int, ...], size: int, reserved: tuple[int, ...]
) -> jax.Array:
    """Ids uniform over the vocabulary without `reserved` (ascending): int32 of `shape`."""
    ids = jax.random.randint(key, shape, 0, size - len(reserved))
    for special in reserved:
        ids = ids + (ids >= special)
    return ids


def positions_of(chosen: jax.Array, slots: int) -> jax.Array:
    """The places of the True of `chosen` [T], ascending, filled up with T: int32 [slots]."""
    T = chosen.shape[0]
    positions = jnp.sort(jnp.where(chosen, jnp.arange(T), T))
    if slots > T:
        positions = jnp.concatenate([positions, jnp.full(slots - T, T, positions.dtype)])
    return positions[:slots]
