"""The device mesh of a run, from the hardware layer of its configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxssl.core.errors import UserError
from jaxssl.parallel.rules import AXES, Rules, make_rules, num_shards, rules_in_force

PRESETS: dict[str, dict[str, int]] = {
    "ddp": {"data": -1},
    "fsdp": {"data": 1, "fsdp": -1},
    "fsdp+tensor": {"data": 1, "fsdp": -1},
    "fsdp+context": {"data": 1, "fsdp": -1},
}
"""The sizes of axes where they are not given; others are 1."""
NO_PRESET = {"data": -1}


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices lie along each axis. Their product must be the number of devices."""

    preset: Literal["ddp", "fsdp", "fsdp+tensor", "fsdp+context"] | None = None
    """How devices share the work: `ddp`, each has all parameters and its share of the batch;
    `fsdp`, a shard of both; `fsdp+tensor` and `fsdp+context`, the same beside shards of layers or
    of rows, whose number is given. It sets the axes that are not given; null sets none."""
    data: int | None = None
    """Replicas of the model: each takes a share of the batch. -1 takes what the others leave, and
    so does null without a preset."""
    fsdp: int | None = None
    """Shards of parameters and optimizer state, gathered when used; they share the batch too. null
    is 1 without a preset."""
    context: int | None = None
    """Shards of each row's tokens, for long rows: queries stay, keys and values are gathered. null
    is 1."""
    tensor: int | None = None
    """Shards of each layer's heads and width; null is 1."""
    rules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Over the usual table: which of these axes split a logical one, as `{embed: [fsdp, tensor],
    mlp: []}`. One that an earlier dimension of an array has taken is left out of the later ones."""
    parameters: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    """Over that table for some parameters alone, with their gradients and optimizer state: as
    `{"**/embedding": {vocab: [], embed: [fsdp]}}`. The first pattern that matches wins."""
    replicated: bool = False
    """Let parameters of 64 MiB and more lie whole on devices that could split them."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the memory of the hosts, and fetch it for each update: slower,
    for models that do not fit otherwise."""
    gather_once: bool = False
    """With `train.accumulation`: gather parameters, and sum gradients over devices, once a step
    rather than in each microbatch. It takes room for all parameters, and for their gradients in
    float32, on each device."""
    compiler: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    """Options of the XLA compiler over those that this kind of chip has (they are told); null
    leaves one out."""

    def __post_init__(self):
        self.layout()
        self._check_preset()

    def layout(self) -> Rules:
        """The table of this run: which axes of the mesh split which axes of arrays."""
        return make_rules(self.rules, self.parameters)

    @property
    def wanted(self) -> dict[str, int]:
        """The size of each axis as it is given, or as the preset has it."""
        usual = PRESETS[self.preset] if self.preset else NO_PRESET
        given = {axis: getattr(self, axis) for axis in AXES}
        return {axis: usual.get(axis, 1) if n is None else n for axis, n in given.items()}

    def _check_preset(self) -> None:
        """Refuses axes that are not the preset's."""
        if self.preset is None:
            return
        own = {*self.preset.split("+")} - {"ddp"}
        given = {axis: getattr(self, axis) for axis in AXES if axis != "data"}
        for axis in own - {"fsdp"}:
            if given[axis] is None:
                raise UserError(
                    f"the preset {self.preset} needs the number of shards along {axis}",
                    where=axis,
                    expected="2 or more",
                    got="null",
                    fix=f"set mesh.{axis}=2, say",
                )
        split = {axis for axis, n in given.items() if (axis in own if n is None else n != 1)}
        if split != own:
            fitting = [name for name in PRESETS if {*name.split("+")} - {"ddp"} == split]
            raise _contradiction(self.preset, given, own, (fitting or ["null"])[0])

    def sizes(self, devices: int) -> tuple[int, ...]:
        """The mesh's shape for this many devices.

        Raises:
          UserError: the axes do not multiply to the number of devices.
        """
        sizes = list(self.wanted.values())
        free = [i for i, size in enumerate(sizes) if size == -1]
        fixed = math.prod(size for size in sizes if size != -1)
        if len(free) == 1 and fixed > 0 and devices % fixed == 0:
            sizes[free[0]] = devices // fixed
        if any(size < 1 for size in sizes) or math.prod(sizes) != devices:
            fix = "leave one axis at -1 to fill it"
            if devices < fixed:
                simulated = f"JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES={fixed}"
                fix += f"; to try a mesh on a CPU, start the command with {simulated}"
            raise UserError(
                "the mesh does not fit the devices",
                where="mesh",
                expected=f"axes whose product is {devices}, the number of devices",
                got=", ".join(f"{axis}={size}" for axis, size in self.wanted.items()),
                fix=fix,
            )
        return tuple(sizes)


def _contradiction(
    preset: str, given: dict[str, int | None], own: set[str], fitting: str
) -> UserError:
    """Of a preset and axes that are given; `own` are those that it splits something over."""
    wrong = [axis for axis, n in given.items() if n is not None and (n == 1) == (axis in own)]
    return UserError(
        "a preset of the mesh and its axes contradict each other",
        where=", ".join(("preset", *wrong)),
        expected=f"with preset={preset}: "
        + ", ".join(f"{axis} {'above' if axis in own else 'of'} 1" for axis in given),
        got=", ".join((f"preset={preset}", *(f"{axis}={given[axis]}" for axis in wrong))),
        fix=f"set mesh.preset={fitting}, or leave out "
        + ", ".join(f"mesh.{axis}" for axis in wrong),
    )


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over all devices, every axis automatic (XLA propagates shardings); its axes lie
    along the links of a TPU's torus. Of several slices, whose links are slow, each has its part of
    the first axes.

    Args:
      devices: None for those of this machine.

    Raises:
      UserError: the axes do not fit the devices, or slices differ.
    """
    devices = jax.devices() if devices is None else devices
    by_axis = _by_axis(config, len(devices))
    slices = _slices(devices)
    over = _over_slices([*by_axis.values()], len(slices))
    own = tuple(size // ways for size, ways in zip(by_axis.values(), over))
    placed = np.stack([_placed(own, each) for each in slices]).reshape(*over, *own)
    pairs = [dimension for i in range(len(own)) for dimension in (i, len(own) + i)]
    lies = placed.transpose(pairs).reshape(*by_axis.values())
    return Mesh(lies, tuple(by_axis), axis_types=(AxisType.Auto,) * len(by_axis))


def _by_axis(config: MeshConfig, devices: int) -> dict[str, int]:
    """The sizes of the axes that a mesh has."""
    by_axis: dict[str, int] = dict(zip(AXES, config.sizes(devices), strict=True))
    if by_axis["context"] == 1:  # programs that do without it are those of a mesh without it
        del by_axis["context"]
    return by_axis


def _slices(devices: Sequence[Any]) -> list[list[Any]]:
    """The devices of each slice of TPUs, or node of GPUs; all in one where they do not say.

    Raises:
      UserError: some have fewer than others.
    """
    found: dict[int, list[Any]] = {}
    for device in devices:
        found.setdefault(getattr(device, "slice_index", 0), []).append(device)
    if len({len(each) for each in found.values()}) > 1:
        raise UserError(
            "the slices are not alike",
            where="mesh",
            expected="as many devices in each slice, or node",
            got=", ".join(f"{number}: {len(found[number])}" for number in sorted(found)),
            fix="start the run on slices of one shape, with all their devices",
        )
    return [found[number] for number in sorted(found)]


def _over_slices(sizes: Sequence[int], slices: int) -> tuple[int, ...]:
    """How many slices lie along each axis: as many as can along the first ones, which send
    least."""
    over = []
    for size in sizes:
        over.append(math.gcd(size, slices))
        slices //= over[-1]
    return tuple(over)


def _placed(sizes: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices of a slice, in the shape of a mesh."""
    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except NotImplementedError:  # tensor=4 on a torus whose axes are of 16: along a quarter of one
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def abstract_mesh(config: MeshConfig, devices: int | None) -> AbstractMesh:
    """The mesh over devices that need not be there.

    Args:
      devices: how many; None for as few as the axes say, one that would take the rest being 1.
    """
    wanted = config.wanted.values()
    count = math.prod(size for size in wanted if size != -1) if devices is None else devices
    sizes = _by_axis(config, count)
    types = (AxisType.Auto,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split as the rules in force say, everything else whole."""
    return NamedSharding(mesh, rules_in_force().spec(("batch",), mesh))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """How many ways a batch is split."""
    return num_shards(mesh, rules_in_force().axes("batch"))


def check_length(length: int, mesh: Mesh) -> None:
    """Refuses rows whose tokens do not divide over the devices that share them.

    Raises:
      UserError: says the nearest lengths that do.
    """
    shards = num_shards(mesh, rules_in_force().axes("sequence"))
    if length % shards:
        low = length - length % shards
        raise UserError(
            "rows do not divide over the devices that share them",
            where="mesh.context",
            expected=f"rows of a multiple of {shards} tokens",
            got=length,
            fix=f"rows of {low} or {low + shards} tokens" if low else f"rows of {shards} tokens",
        )


def check_batch(batch_size: int, accumulation: int, mesh: Mesh) -> None:
    """Refuses a batch that does not divide over microbatches and devices.

    Raises:
      UserError: says the nearest batch sizes that do.
    """
    unit = batch_shards(mesh) * accumulation
    if batch_size % unit:
        low = batch_size - batch_size % unit
        raise UserError(
            "the batch does not divide over the devices",
            where="data.batch_size",
            expected=f"a multiple of {unit} ({batch_shards(mesh)} batch shards x "
            f"{accumulation} microbatches)",
            got=batch_size,
            fix=f"use {low} or {low + unit}" if low else f"use {unit}",
        )


def check_gather_once(accumulation: int, needs_all: Mapping[str, str]) -> None:
    """Refuses microbatches that have nothing to share, or cannot.

    Args:
      needs_all: {path in the configuration: name} of objectives that compare all rows of a batch.
    """
    if accumulation == 1:
        raise UserError(
            "a batch in one part gathers and sums once a step as it is",
            where="mesh.gather_once",
            expected="false, or train.accumulation above 1",
            got="true with train.accumulation=1",
        )
    for where, name in needs_all.items():
        raise UserError(
            "an objective that compares all rows of a batch goes through its parts twice",
            where="mesh.gather_once",
            expected="false",
            got=f"true with {where}={name}",
        )
