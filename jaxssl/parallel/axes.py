"""Arrays laid out by the logical names of their axes, inside a traced function."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from jaxssl.parallel.rules import num_shards, rules_in_force


def to_spec(names: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axis names as a PartitionSpec by the rules in force; an unknown name is a
    KeyError."""
    return rules_in_force().spec(names)


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """`x` laid out over the current mesh by its logical axes; unchanged where no mesh is set."""
    spec = to_spec(names)
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def over_batch_shards(
    function: Callable[[Any, Any], tuple[Any, Any]], whole: Any, rows: Any
) -> tuple[Any, Any]:
    """`function(whole, rows) -> (sums, rows)`, each batch shard on its own rows.

    Sums are added up over the shards once, at the end, where XLA left to itself may do so in every
    turn of a loop inside `function`. The other axes of the mesh stay XLA's. Without a mesh, or
    where the batch is not split, the function is called as it is.

    Args:
      whole: pytree of arrays that every shard needs whole.
      rows: pytree of arrays [C, B, ...]; so are the rows that come out.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = rules_in_force().axes("batch")
    if mesh.empty or num_shards(mesh, axes) == 1:
        return function(whole, rows)

    def on_shard(whole, rows):
        sums, out = function(whole, rows)
        return jax.lax.psum(sums, axes), out

    split = PartitionSpec(None, axes)
    shards = jax.shard_map(
        on_shard,
        in_specs=(PartitionSpec(), split),
        out_specs=(PartitionSpec(), split),
        axis_names=set(axes),
        check_vma=False,  # with it, the gradient of what is whole would be added up in the loop
    )
    return shards(whole, rows)
