"""The device mesh of a run, from the hardware layer of its configuration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxssl.core.errors import UserError
from jaxssl.parallel.rules import AXES, make_rules, num_shards, rules_in_force


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices lie along each axis. Their product must be the number of devices."""

    data: int = -1
    """Replicas of the model: each takes a share of the batch. -1 takes what the others leave."""
    fsdp: int = 1
    """Shards of parameters and optimizer state, gathered when used; they share the batch too."""
    context: int = 1
    """Shards of each row's tokens, for long rows: queries stay, keys and values are gathered."""
    tensor: int = 1
    """Shards of each layer's heads and width."""
    rules: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Over the usual table: which of these axes split a logical one, as `{embed: [fsdp, tensor],
    mlp: []}`. One that an earlier dimension of an array has taken is left out of the later ones."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the memory of the hosts, and fetch it for each update: slower,
    for models that do not fit otherwise."""
    compiler: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    """Options of the XLA compiler over those that this kind of chip has (they are told); null
    leaves one out."""

    def __post_init__(self):
        make_rules(self.rules)

    def sizes(self, devices: int) -> tuple[int, ...]:
        """The mesh's shape for this many devices.

        Raises:
          UserError: the axes do not multiply to the number of devices.
        """
        sizes = [getattr(self, axis) for axis in AXES]
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
                got=", ".join(f"{axis}={getattr(self, axis)}" for axis in AXES),
                fix=fix,
            )
        return tuple(sizes)


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
    by_axis = dict(zip(AXES, config.sizes(len(devices)), strict=True))
    if by_axis["context"] == 1:  # programs that do without it are those of a mesh without it
        del by_axis["context"]
    slices = _slices(devices)
    over = _over_slices([*by_axis.values()], len(slices))
    own = tuple(size // ways for size, ways in zip(by_axis.values(), over))
    placed = np.stack([_placed(own, each) for each in slices]).reshape(*over, *own)
    pairs = [dimension for i in range(len(own)) for dimension in (i, len(own) + i)]
    lies = placed.transpose(pairs).reshape(*by_axis.values())
    return Mesh(lies, tuple(by_axis), axis_types=(AxisType.Auto,) * len(by_axis))


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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows split as the rules in force say, everything else whole."""
    return NamedSharding(mesh, rules_in_force().spec(("batch",), mesh))


def replicated(mesh: Mesh) -> NamedSharding:
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
