"""The table from a model's logical axes to the mesh's axes.

Models name axes (`embed`, `heads`, ...) and know no mesh; the table says how they are laid out.
Which table is in force is a context of JAX's that its caches see: what was traced under one table
is traced anew under another.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxssl.core.errors import UserError, UserErrors, did_you_mean
from jaxssl.core.platform import use_platform

AXES = ("data", "fsdp", "context", "tensor")
"""That a mesh may have; one that it has not splits nothing."""


@dataclass(frozen=True)
class Rules:
    """Which axes of the mesh each logical axis is split over. Hashable.

    Attributes:
      table: (logical axis, axes of the mesh), the first the slowest; none where it is whole.
    """

    table: tuple[tuple[str, tuple[str, ...]], ...]

    def axes(self, name: str | None) -> tuple[str, ...]:
        """The axes of the mesh for a logical one; an unknown name is a KeyError."""
        return () if name is None else dict(self.table)[name]

    def spec(
        self, names: Sequence[str | None], mesh: Mesh | AbstractMesh | None = None
    ) -> PartitionSpec:
        """Of an array whose axes have these names. An axis of the mesh splits the first of them
        that asks for it, and is left out of the others.

        Args:
          mesh: None for one that has all axes.
        """
        there = AXES if mesh is None else mesh.axis_names
        taken: set[str] = set()
        parts = []
        for name in names:
            free = tuple(axis for axis in self.axes(name) if axis in there and axis not in taken)
            taken.update(free)
            parts.append(free if len(free) > 1 else free[0] if free else None)
        return PartitionSpec(*parts)


DEFAULT = Rules(
    (
        ("batch", ("data", "fsdp")),
        ("microbatch", ()),
        ("sequence", ("context",)),
        ("residual", ("context", "tensor")),
        ("keys", ()),
        ("embed", ("fsdp", "context")),
        ("activation", ()),
        ("heads", ("tensor",)),
        ("kv_heads", ("tensor",)),
        ("head_dim", ()),
        ("mlp", ("tensor",)),
        ("vocab", ("tensor",)),
        ("positions", ()),
        ("layers", ()),
        ("norm", ()),
    )
)
"""Change here how all models are laid out; `mesh.rules` changes it for a run.

`residual` is the sequence between the sublayers, where tensor parallelism would else leave the same
hidden states, and the same norms to compute, on each of its devices. `keys` is the sequence that
attention's queries see, whole on each device of `context`."""


def make_rules(changes: Mapping[str, Sequence[str]]) -> Rules:
    """The default table with some logical axes laid out otherwise.

    Raises:
      UserError: an unknown axis, or one twice.
    """
    known = dict(DEFAULT.table)
    errors = []
    for name, axes in changes.items():
        if name not in known:
            errors.append(_unknown("no parameter or activation has such an axis", name, known))
        for axis in axes:
            if axis not in AXES:
                errors.append(_unknown("the mesh has no such axis", axis, AXES, f"rules.{name}"))
        if len(set(axes)) < len(axes):
            what = "an axis of the mesh can split an axis once"
            errors.append(UserError(what, where=f"rules.{name}", got=list(axes)))
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    return Rules(tuple({**known, **{name: tuple(x) for name, x in changes.items()}}.items()))


def _unknown(
    what: str, name: str, known: Mapping[str, object] | Sequence[str], where: str = "rules"
) -> UserError:
    expected = "one of " + ", ".join(known)
    return UserError(what, where=where, expected=expected, got=name, fix=did_you_mean(name, known))


_IN_FORCE = jax.make_user_context(DEFAULT)


def rules_in_force() -> Rules:
    """The table that holds here and now."""
    return _IN_FORCE.value


@contextlib.contextmanager
def use_rules(rules: Rules) -> Iterator[None]:
    """Puts a table in force, in this thread, for what is laid out or traced inside."""
    with _IN_FORCE(rules):
        yield


_RINGS: Any = jax.make_user_context(())


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
    """Sets the mesh, and what it tells of its devices."""
    rings = tuple((axis, rings_of(mesh, axis)) for axis in mesh.axis_names)
    with jax.set_mesh(mesh), use_platform(platform_of(mesh)), _RINGS(rings):
        yield


@contextlib.contextmanager
def use_layout(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Sets the mesh, and the table that says how arrays lie on it."""
    with use_mesh(mesh), use_rules(rules):
        yield


def rings_in_force(axis: str) -> tuple[int, ...]:
    """`rings_of` the mesh that is set; one ring where it was set without `use_mesh`."""
    sizes = (jax.sharding.get_abstract_mesh().shape[axis],)
    return dict(_RINGS.value).get(axis, sizes)


def rings_of(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """The sizes of the rings of a TPU's torus that an axis of the mesh winds over, the slowest
    first; one where devices do not say where they are."""
    number = mesh.axis_names.index(axis)
    line = np.moveaxis(mesh.devices, number, 0).reshape(mesh.devices.shape[number], -1)[:, 0]
    places = [tuple(getattr(device, "coords", None) or ()) for device in line]
    sizes, step = [], 1
    while step < len(line) and all(places):
        changed = [a != b for a, b in zip(places[0], places[step])]
        size = 1
        while step * size < len(line):
            now = [a != b for a, b in zip(places[0], places[step * size])]
            if size > 1 and now != changed:
                break
            size += 1
        if len(line) % (step * size) or size == 1 or sum(changed) != 1:
            return (len(line),)  # no torus that is wound over row by row
        sizes.insert(0, size)
        step *= size
    return tuple(sizes) or (len(line),)


def platform_of(mesh: Mesh) -> str:
    """`cpu`, `gpu` or `tpu`."""
    name = mesh.devices.flat[0].platform
    return "gpu" if name in ("cuda", "rocm") else name


def num_shards(mesh: Mesh | AbstractMesh, axes: Sequence[str]) -> int:
    """How many ways these axes of the mesh split something."""
    return math.prod(mesh.shape.get(axis, 1) for axis in axes)
