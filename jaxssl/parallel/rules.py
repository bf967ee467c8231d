"""The table from a model's logical axes to the mesh's axes.

Models name axes (`embed`, `heads`, ...) and know no mesh; the table says how they are laid out.
Which table is in force is a context of JAX's that its caches see: what was traced under one table
is traced anew under another.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from jaxssl.core.errors import UserError, UserErrors, did_you_mean
from jaxssl.core.layer_names import canonical
from jaxssl.core.names import matches
from jaxssl.core.platform import use_platform

AXES = ("data", "fsdp", "context", "tensor")
"""That a mesh may have; one that it has not splits nothing."""


@dataclass(frozen=True)
class Laid:
    """A logical axis of one parameter that lies otherwise than the table says. Hashable.

    Attributes:
      axes: of the mesh, that it is split over.
    """

    name: str
    axes: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


Name = str | Laid | None
"""Of an axis of an array; None of one that is always whole."""
Names = tuple[Name, ...]
Table = tuple[tuple[str, tuple[str, ...]], ...]
"""(logical axis, axes of the mesh), the first the slowest; none where it is whole."""


@dataclass(frozen=True)
class Rules:
    """Which axes of the mesh each logical axis is split over. Hashable.

    Attributes:
      parameters: (pattern, what is laid over the table for the parameters that it matches); the
        first that matches wins.
      root: what comes before the paths of parameters, of a network beside the main one.
    """

    table: Table
    parameters: tuple[tuple[str, Table], ...] = ()
    root: str = ""

    def axes(self, name: Name) -> tuple[str, ...]:
        """The axes of the mesh for a logical one; an unknown name is a KeyError."""
        if isinstance(name, Laid):
            return name.axes
        return () if name is None else dict(self.table)[name]

    def without(self, axes: Sequence[str]) -> "Rules":
        """The table inside a function that each device of these axes calls with its own part: what
        they split is whole there."""

        def rest(table: Table) -> Table:
            return tuple((name, tuple(x for x in own if x not in axes)) for name, own in table)

        changed = tuple((pattern, rest(over)) for pattern, over in self.parameters)
        return dataclasses.replace(self, table=rest(self.table), parameters=changed)

    def of_parameter(self, path: str, names: Sequence[str | None]) -> Names:
        """The axes of a parameter, those that its pattern lays out otherwise as `Laid`."""
        path = canonical(self.root + path) if self.parameters else path
        changes = (dict(over) for pattern, over in self.parameters if matches(pattern, path))
        own = next(changes, {})
        return tuple(Laid(x, own[x]) if x is not None and x in own else x for x in names)

    def spec(self, names: Sequence[Name], mesh: Mesh | AbstractMesh | None = None) -> PartitionSpec:
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


Changes = Mapping[str, Sequence[str]]
"""{logical axis: axes of the mesh}, over a table."""


def make_rules(changes: Changes, parameters: Mapping[str, Changes] | None = None) -> Rules:
    """The default table with some logical axes laid out otherwise.

    Args:
      parameters: {pattern: what is laid over that for the parameters that it matches}.

    Raises:
      UserError: an unknown axis, or one twice.
    """
    errors = list(_mistakes(changes, "rules"))
    for pattern, over in (parameters or {}).items():
        errors += _mistakes(over, f"parameters.{pattern}")
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    own = tuple((pattern, _table(over)) for pattern, over in (parameters or {}).items())
    return Rules(_table({**dict(DEFAULT.table), **changes}), own)


def _table(changes: Changes) -> Table:
    return tuple((name, tuple(axes)) for name, axes in changes.items())


def _mistakes(changes: Changes, where: str) -> Iterator[UserError]:
    known = dict(DEFAULT.table)
    for name, axes in changes.items():
        if name not in known:
            yield _unknown("no parameter or activation has such an axis", name, known, where)
        for axis in axes:
            if axis not in AXES:
                yield _unknown("the mesh has no such axis", axis, AXES, f"{where}.{name}")
        if len(set(axes)) < len(axes):
            what = "an axis of the mesh can split an axis once"
            yield UserError(what, where=f"{where}.{name}", got=list(axes))


def _unknown(
    what: str, name: str, known: Mapping[str, object] | Sequence[str], where: str
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


def inside(root: str) -> contextlib.AbstractContextManager[None]:
    """Where a network is called whose parameters lie below `root`, by which patterns know them."""
    rules = rules_in_force()
    if not (root and rules.parameters):
        return contextlib.nullcontext()
    return use_rules(dataclasses.replace(rules, root=f"{root}/"))


_RINGS: Any = jax.make_user_context(())
_SLICES: Any = jax.make_user_context(1)


@contextlib.contextmanager
def use_mesh(mesh: Mesh) -> Iterator[None]:
    """Sets the mesh, and what it tells of its devices."""
    rings = tuple((axis, rings_of(mesh, axis)) for axis in mesh.axis_names)
    with jax.set_mesh(mesh), use_platform(platform_of(mesh)), _RINGS(rings):
        with _SLICES(len({getattr(each, "slice_index", 0) for each in mesh.devices.flat})):
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


def slices_in_force() -> int:
    """How many slices of TPUs, or nodes of GPUs, the mesh that is set lies over."""
    return _SLICES.value


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
