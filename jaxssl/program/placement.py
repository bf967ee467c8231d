"""How parameters lie on a mesh, told and checked before any of them is there."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import canonical
from jaxssl.core.names import flatten, matches, unmatched
from jaxssl.core.types import Params
from jaxssl.models.layers import is_boxed
from jaxssl.ops.codes import bits_of
from jaxssl.parallel.rules import Changes, Laid, Name, num_shards
from jaxssl.program.state import laid_out, parts_of

LARGE = 64 << 20
"""Bytes on a device from which a whole copy is an error. With its gradient and Adam's two moments,
float32 of this size takes 256 MiB of each device: 1.6% of an accelerator with 16 GiB."""
REPLICAS = "data"
"""The axis of the mesh whose devices hold the same parameters on purpose."""


@dataclass(frozen=True)
class Placement:
    """How an array lies on a mesh.

    Attributes:
      path: of a parameter; else words.
      names: of its axes.
      parts: the axes of the mesh that split each of its axes.
      sizes: of the mesh, by axis.
    """

    path: str
    shape: tuple[int, ...]
    dtype: Any
    names: tuple[Name, ...]
    parts: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]

    @property
    def num_bytes(self) -> int:
        """Of all of it."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def own_bytes(self) -> int:
        """Of what each device holds."""
        return self.num_bytes // math.prod(self.ways(axes) for axes in self.parts)

    def ways(self, axes: Iterable[str]) -> int:
        """How many shards these axes of the mesh make."""
        return math.prod(self.sizes[axis] for axis in axes)

    @property
    def told(self) -> str:
        """In words: `fsdp 8 on axis 1`."""
        split = [
            " x ".join(f"{axis} {self.sizes[axis]}" for axis in axes if self.sizes[axis] > 1)
            + f" on axis {number}"
            for number, axes in enumerate(self.parts)
            if self.ways(axes) > 1
        ]
        return ", ".join(split) or "whole"

    @property
    def logical(self) -> str:
        """The names of its axes, in words; `-` has none."""
        return ", ".join("-" if name is None else str(name) for name in self.names) or "a number"

    @property
    def unused(self) -> list[str]:
        """The axes of the mesh whose devices hold the same part of it, but for replicas."""
        used = {axis for axes in self.parts for axis in axes}
        own = [axis for axis, size in self.sizes.items() if size > 1 and axis != REPLICAS]
        return [axis for axis in own if axis not in used]


def placements(boxed: Params, mesh: Mesh | AbstractMesh) -> list[Placement]:
    """How parameters lie on a mesh.

    Args:
      boxed: with their axes, as of `abstract_params`.

    Raises:
      UserError: an axis of one does not divide.
    """
    names = {path: _names(leaf) for path, leaf in flatten(boxed).items()}
    return [
        Placement(
            path, x.shape, x.dtype, names[path], tuple(parts_of(x.sharding, x.ndim)), mesh.shape
        )
        for path, x in flatten(laid_out(boxed, mesh)).items()
    ]


def _names(leaf: Any) -> tuple[Name, ...]:
    return tuple(leaf.names) if is_boxed(leaf) else (None,) * leaf.ndim


def whole_leaves(state: Any, mesh: Mesh | AbstractMesh, what: str) -> list[Placement]:
    """Arrays of a state that have no axes to be split by: they lie whole on every device."""
    leaves = jax.tree.leaves_with_path(state, is_leaf=is_boxed)
    return [
        Placement(
            what + jax.tree_util.keystr(path),
            x.shape,
            x.dtype,
            _names(x),
            ((),) * x.ndim,
            mesh.shape,
        )
        for path, x in leaves
        if not is_boxed(x)
    ]


def bytes_here(state: Any, mesh: Mesh | AbstractMesh) -> tuple[int, int]:
    """Of a boxed tree: the bytes of all of it, and of what each device holds."""
    return bytes_of(laid_out(state, mesh))


def bytes_of(abstract: Any) -> tuple[int, int]:
    """Of shapes that are laid out: the bytes of all arrays, and of what each device holds."""
    whole = here = 0
    for x in jax.tree.leaves(abstract):
        size = math.prod(x.shape) * bits_of(x.dtype) // 8
        ways = (num_shards(x.sharding.mesh, axes) for axes in parts_of(x.sharding, x.ndim))
        whole += size
        here += size // math.prod(ways)
    return whole, here


# --- Checks --------------------------------------------------------------------------------------


def check_patterns(parameters: Mapping[str, Changes], boxed: Params) -> None:
    """Refuses patterns of `mesh.parameters` that change nothing.

    Args:
      boxed: all parameters of a model, with their axes.

    Raises:
      UserError: one matches no parameter, or lays out an axis that none has which it matches.
    """
    where = "mesh.parameters"
    leaves = {canonical(path): _names(leaf) for path, leaf in flatten(boxed).items()}
    for pattern, changes in parameters.items():
        found = [names for path, names in leaves.items() if matches(pattern, path)]
        if not found:
            raise unmatched(pattern, list(leaves), where)
        there = dict.fromkeys(str(name) for names in found for name in names if name is not None)
        for name in changes:
            if name not in there:
                raise UserError(
                    "no parameter that the pattern matches has such an axis",
                    where=f"{where}.{pattern}",
                    expected="one of " + ", ".join(there) if there else "no axis: none has a name",
                    got=name,
                    fix="see the axes of each parameter with `jaxssl inspect RUN`",
                )


def check_split(placed: Iterable[Placement]) -> None:
    """Refuses large arrays that lie whole on devices that could split them.

    Those pass that `mesh.parameters` lays out.

    Raises:
      UserError: names the largest, and what would split it.
    """
    found = [
        each
        for each in placed
        if each.own_bytes >= LARGE
        and each.unused
        and not any(isinstance(name, Laid) for name in each.names)
    ]
    if not found:
        return
    largest = max(found, key=lambda each: each.own_bytes)
    axis = max(largest.unused, key=lambda axis: largest.sizes[axis])
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    raise UserError(
        "a large array lies whole on devices that could split it",
        where=f"{largest.path} {list(largest.shape)}{others}",
        expected=f"less than {LARGE >> 20} MiB on each device, or shards over mesh.{axis}, too",
        got=f"{largest.own_bytes / 2**20:,.1f} MiB on each device, the same along {axis} "
        f"{largest.sizes[axis]}: {'; '.join(_why_whole(largest, axis))}",
        fix=_way_out(largest, axis),
    )


def _why_whole(array: Placement, axis: str) -> list[str]:
    """Of each of its axes, why that of the mesh does not split it."""
    reasons = []
    for number, (name, size, own) in enumerate(zip(array.names, array.shape, array.parts)):
        split = " x ".join(f"{each} {array.sizes[each]}" for each in own)
        rule = f"goes by {split}" if own else "has no rule" if name else "has no name"
        short = size % (array.ways(own) * array.sizes[axis])
        rule += f" and does not divide by {axis} {array.sizes[axis]}" if short else ""
        reasons.append(f"axis {number} ({name or '-'}, {size}) {rule}")
    return reasons


def _way_out(array: Placement, axis: str) -> str:
    """The override that splits an array by an axis of the mesh, or what else there is to do."""
    leave = "mesh.replicated=true leaves it whole"
    for name, size, own in zip(array.names, array.shape, array.parts):
        kept = [each for each in own if array.sizes[each] > 1]
        if name is not None and size % (array.ways(own) * array.sizes[axis]) == 0:
            changes = f"{{{name}: [{', '.join([*kept, axis])}]}}"
            return f"'mesh.parameters={{{canonical(array.path)}: {changes}}}' splits it; {leave}"
    return f"none of its axes can be split by {axis}: use another axis of the mesh; {leave}"
