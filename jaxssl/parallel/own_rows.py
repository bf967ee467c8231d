"""A function that each device which shares the batch calls with its own rows."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxssl.parallel.axes import scatters_over, split_by, summed_into
from jaxssl.parallel.rules import Names, rules_in_force, use_rules

Arrays = Mapping[str, jax.Array]


def on_own_rows(
    function: Callable[..., tuple[Any, Arrays]],
    whole: tuple[Any, ...],
    parts: Any,
    names: Mapping[str, Names],
    kinds: Mapping[str, np.dtype],
) -> tuple[Any, dict[str, jax.Array]]:
    """`function(*whole, parts) -> (numbers, {name: array})`, summed over the devices that share the
    batch. Inside, nothing is split over their axes.

    Args:
      whole: pytrees that each device needs whole.
      parts: pytree of arrays [M, B, ...], of which each device has its rows.
      names: the logical axes of the arrays, of whose sums each device keeps its shard.
      kinds: the dtype in which each is summed.
    """
    over = split_by("batch")
    layouts = {name: _layout(axes, over) for name, axes in names.items()}

    def on_shard(*given: Any) -> tuple[Any, dict[str, jax.Array]]:
        with use_rules(rules_in_force().without(over)):
            numbers, arrays = function(*given)
        summed = {
            name: _summed(x.astype(kinds[name]), over, layouts[name]).astype(x.dtype)
            for name, x in arrays.items()
        }
        return jax.lax.psum(numbers, over), summed

    shards = jax.shard_map(
        on_shard,
        in_specs=(*(PartitionSpec() for _ in whole), PartitionSpec(None, over)),
        out_specs=(PartitionSpec(), layouts),
        axis_names={*over},
        check_vma=False,
    )
    return shards(*whole, parts)


def _layout(names: Names, over: Sequence[str]) -> PartitionSpec:
    """Which of these axes of the mesh split an array."""
    spec = rules_in_force().spec(names, jax.sharding.get_abstract_mesh())
    parts = (part if isinstance(part, tuple) else (part,) for part in spec)
    return PartitionSpec(*(tuple(axis for axis in part if axis in over) or None for part in parts))


def _summed(own: jax.Array, over: Sequence[str], layout: PartitionSpec) -> jax.Array:
    """The sum over devices, of which each keeps its shard."""
    parts = [part if isinstance(part, tuple) else (part,) for part in layout if part is not None]
    dimensions = [dimension for dimension, part in enumerate(layout) if part is not None]
    for axes, dimension in zip(parts, dimensions):
        own = summed_into(own, axes, scatters_over(axes), dimension)
    others = tuple(axis for axis in over if axis not in itertools.chain(*parts))
    return summed_into(own, others)
