"""Arrays laid out by the logical names of their axes, inside a traced function."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec

from jaxssl.core.platform import platform
from jaxssl.parallel.rules import (
    Laid,
    Names,
    num_shards,
    rings_in_force,
    rules_in_force,
    slices_in_force,
)

T = TypeVar("T")


def to_spec(names: Names) -> PartitionSpec:
    """Logical axis names as a PartitionSpec of the current mesh by the rules in force; an unknown
    name is a KeyError."""
    mesh = jax.sharding.get_abstract_mesh()
    return rules_in_force().spec(names, None if mesh.empty else mesh)


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """`x` laid out over the current mesh by its logical axes; unchanged where no mesh is set.

    An axis of `x` that does not divide over all axes of the mesh that split it is split by the
    first of them: a token that is decoded, say. Inside of a function that runs on each shard by
    itself, `x` is laid out by the axes that are XLA's there.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    parts = [_that_split(mesh, part, size) for part, size in zip(to_spec(names), x.shape)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*parts))


def _that_split(mesh: AbstractMesh, part: Any, size: int) -> tuple[str, ...]:
    """The first axes of a part of a PartitionSpec, as far as they divide a size."""
    axes = () if part is None else part if isinstance(part, tuple) else (part,)
    axes = tuple(axis for axis in axes if axis not in mesh.manual_axes)
    while size % num_shards(mesh, axes):
        axes = axes[:-1]
    return axes


def split_by(name: str) -> tuple[str, ...]:
    """The axes of the current mesh that split what has this logical name."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return ()
    return tuple(axis for axis in rules_in_force().axes(name) if mesh.shape.get(axis, 1) > 1)


def shards_of(name: str) -> int:
    """How many ways the current mesh splits what has this logical name."""
    mesh = jax.sharding.get_abstract_mesh()
    return num_shards(mesh, split_by(name))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def scattered(x: jax.Array, names: Names) -> jax.Array:
    """`x`, a parameter with these logical axes: XLA is told at its gradient already that it lies in
    shards, not first at the optimizer."""
    del names
    return x


def _forward(x: jax.Array, names: Names) -> tuple[jax.Array, None]:
    return x, None


def _backward(names: Names, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (constrain(gradient, names),)


scattered.defvjp(_forward, _backward)


@dataclass(frozen=True)
class Gathered:
    """Parameters with these logical axes, such as codes and their scales, whole on all devices that
    have other rows; devices that share a layer keep their parts. Hashable."""

    names: Names

    def __call__(self, tree: T) -> T:
        rows = {*split_by("batch"), *split_by("sequence")}
        of_name = rules_in_force().axes
        kept = [tuple(axis for axis in of_name(name) if axis not in rows) for name in self.names]
        names = tuple(Laid("gathered", axes) for axes in kept)
        return jax.tree.map(lambda x: constrain(x, names), tree)


@dataclass(frozen=True)
class RingByRing:
    """Gathers a parameter that lies in these shards, one ring of a torus after the other: over
    several slices a TPU's compiler makes one gather over more than a ring a sum, which sends twice
    as much. Hashable."""

    shards: "IntoShards"

    def __call__(self, x: jax.Array) -> jax.Array:
        into = self.shards

        def on_shard(own: jax.Array) -> jax.Array:
            for axis, rings in reversed(into.scatters):
                for groups in reversed(rings):
                    own = jax.lax.all_gather(
                        own, axis, axis=into.dimension, axis_index_groups=groups, tiled=True
                    )
            return own

        axes = tuple(axis for axis, _ in into.scatters)
        split = PartitionSpec(*[None] * into.dimension, axes)
        gather = jax.shard_map(
            on_shard,
            in_specs=split,
            out_specs=PartitionSpec(),
            axis_names={*axes},
            check_vma=False,
        )
        return gather(x)


Groups = tuple[tuple[tuple[int, ...], ...], ...]
"""For each ring, sets of places along an axis."""


Scatters = tuple[tuple[str, Groups], ...]
"""Axes of the mesh, the slowest first, each with groups of its places, one set for each ring of a
torus that it lies on, the slowest first: a TPU sums whole what would be scattered over more than a
ring at once."""


def summed_into(
    own: jax.Array, over: Sequence[str], scatters: Scatters = (), dimension: int = 0
) -> jax.Array:
    """The sum of what each device has over axes of the mesh, of which each keeps the shard along
    `dimension` that `scatters` give it; inside a function that runs on each shard by itself.

    On a CPU it is made in float32: jaxlib 0.10.2 would make one of bfloat16 so, too, and ends the
    process over it where other axes of the mesh are XLA's.
    """
    kind = own.dtype
    own = own.astype(jnp.promote_types(kind, jnp.float32)) if platform() == "cpu" else own
    for axis, rings in scatters:
        for groups in rings:
            own = jax.lax.psum_scatter(
                own, axis, scatter_dimension=dimension, axis_index_groups=groups, tiled=True
            )
    others = tuple(axis for axis in over if axis not in dict(scatters))
    return (jax.lax.psum(own, others) if others else own).astype(kind)


def scatters_over(axes: Sequence[str]) -> Scatters:
    """These axes, each with its rings."""
    return tuple((axis, ring_groups(rings_in_force(axis))) for axis in axes)


@dataclass(frozen=True)
class IntoShards:
    """Sums the gradient of a kernel straight into the shards that parameters lie in: each device
    sends its part of a sum once, where XLA sums it whole on every device, which sends it twice.

    Attributes:
      rows: the axes of the mesh that split the batch and, where any do, the sequence.
      scatters: the axes that split the kernel.
      dimension: of the kernel, that they split.
    """

    rows: tuple[tuple[str, ...], ...]
    scatters: Scatters
    dimension: int

    def __call__(self, product: Callable[..., jax.Array], x: jax.Array, dy: jax.Array) -> jax.Array:
        """`product(x, dy)` of rows [B, ...] or [B, T, ...], in shards."""
        over = tuple(axis for axes in self.rows for axis in axes)
        shard_axes = tuple(axis for axis, _ in self.scatters)

        def on_shard(x: jax.Array, dy: jax.Array) -> jax.Array:
            return summed_into(product(x, dy), over, self.scatters, self.dimension)

        rows = PartitionSpec(*self.rows)
        out = PartitionSpec(*[None] * self.dimension, shard_axes)
        shards = jax.shard_map(
            on_shard,
            in_specs=(rows, rows),
            out_specs=out,
            axis_names={*over},
            check_vma=False,
        )
        return shards(x, dy)


def into_shards(names: Names, shape: tuple[int, ...]) -> IntoShards | None:
    """How the gradient of a kernel with these logical axes is summed, given rows of `shape`, (B,)
    or (B, T); None where that is XLA's: no mesh, no shards, rows that do not lie in shards, or a
    kernel that another axis splits, too (7B on 4,096 chips, tensor 4: 31.9 GiB a chip and step by
    XLA, 48.9 by hand)."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return None
    sequence = split_by("sequence")
    rows = (split_by("batch"), sequence) if sequence else (split_by("batch"),)
    over = {axis for axes in rows for axis in axes}
    split = len(rows) <= len(shape) and not any(
        size % num_shards(mesh, axes) for size, axes in zip(shape, rows)
    )
    parts = [
        (dimension, axis)
        for dimension, part in enumerate(to_spec(names))
        for axis in (part if isinstance(part, tuple) else (part,))
        if axis is not None and mesh.shape[axis] > 1
    ]
    dimensions, axes = {dimension for dimension, _ in parts}, tuple(axis for _, axis in parts)
    if not split or len(dimensions) != 1 or not over.issuperset(axes):
        return None
    return IntoShards(rows, scatters_over(axes), dimensions.pop())


def ring_by_ring(shards: IntoShards | None) -> RingByRing | None:
    """How a parameter is gathered whose gradient goes into these shards; None where that is
    XLA's."""
    is_over_slices = platform() == "tpu" and slices_in_force() > 1
    return RingByRing(shards) if shards is not None and is_over_slices else None


def ring_groups(sizes: tuple[int, ...]) -> Groups:
    """The places along an axis that make up each ring, for rings of these sizes, the slowest
    first."""
    places = np.arange(math.prod(sizes)).reshape(sizes)
    made = []
    for ring, size in enumerate(sizes):
        rows = np.moveaxis(places, ring, -1).reshape(-1, size)
        made.append(tuple(tuple(row) for row in rows.tolist()))
    return tuple(made)


def on_shards(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function`, called by each device with its shards of the arguments: for kernels that know one
    device. Without a mesh it is `function`.

    Args:
      in_specs, out_specs: PartitionSpecs in the place of arrays; more than there are arrays is
        allowed where an argument is None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {*mesh.axis_names} - {*mesh.manual_axes}
    if mesh.empty or not free:
        return function

    def sharded(*args: Any) -> Any:
        there = jax.tree.map(
            lambda x, spec: None if x is None else spec, args, in_specs, is_leaf=_is_none
        )
        # Without check_vma: a Pallas call does not say which axes its outputs vary over.
        call = jax.shard_map(
            function, in_specs=there, out_specs=out_specs, axis_names=free, check_vma=False
        )
        return call(*args)

    return sharded


def exchanged(tree: T, over: Sequence[str]) -> T:
    """Arrays [B, T, ...] of which each shard along T has its first half, and in the place of its
    second that of the shard as far from the other end; done twice it changes nothing. Inside a
    function that runs on each shard by itself."""
    count = num_shards(jax.sharding.get_abstract_mesh(), over)
    pairs = [(shard, count - 1 - shard) for shard in range(count)]

    def exchange(x: jax.Array) -> jax.Array:
        own, given = jnp.split(x, 2, axis=1)
        return jnp.concatenate([own, jax.lax.ppermute(given, tuple(over), pairs)], axis=1)

    return jax.tree.map(exchange, tree)


def _is_none(x: Any) -> bool:
    return x is None
