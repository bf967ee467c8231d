"""Rows of a table that lies in shards, whose gradient goes straight into them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Product = Callable[[jax.Array, jax.Array], jax.Array]
"""Of ids and gradients of rows: the gradient of a table."""
Summed = Callable[[Product, jax.Array, jax.Array], jax.Array]
"""How that is summed over devices: a function of the product and its operands. Hashable."""
Gathered = Callable[[jax.Array], jax.Array]
"""How devices that hold parts of a table get all of it. Hashable."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def look_up(
    table: jax.Array, ids: jax.Array, dtype: str, gathered: Gathered, summed: Summed
) -> jax.Array:
    """The rows of `table` [size, width] at `ids` [...]: [..., width] in `dtype`, in which the table
    is gathered. Its gradient is summed in its own dtype."""
    return jnp.take(gathered(table.astype(dtype)), ids, axis=0)


def _forward(
    table: jax.Array, ids: jax.Array, dtype: str, gathered: Gathered, summed: Summed
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return look_up(table, ids, dtype, gathered, summed), (table, ids)


def _backward(
    dtype: str,
    gathered: Gathered,
    summed: Summed,
    residuals: tuple[jax.Array, jax.Array],
    drows: jax.Array,
) -> tuple[jax.Array, None]:
    del dtype, gathered
    table, ids = residuals

    def own(ids: jax.Array, drows: jax.Array) -> jax.Array:
        return jnp.zeros(table.shape, table.dtype).at[ids].add(drows.astype(table.dtype))

    return summed(own, ids, drows), None


look_up.defvjp(_forward, _backward)
