"""Meshes: sizes, what does not fit, and how a batch is shared."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.parallel.hosts import DistributedConfig, agree, first_decides, global_batch
from jaxssl.parallel.mesh import MeshConfig, batch_sharding, check_batch, make_mesh


@pytest.mark.parametrize(
    ("config", "devices", "sizes"),
    [
        (MeshConfig(), 1, (1, 1, 1, 1)),
        (MeshConfig(), 8, (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), 8, (2, 4, 1, 1)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), 8, (1, 4, 1, 2)),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, (2, 2, 1, 2)),
        (MeshConfig(data=3, tensor=-1), 12, (3, 1, 1, 4)),
        (MeshConfig(data=1, fsdp=-1, context=2, tensor=2), 16, (1, 4, 2, 2)),
    ],
)
def test_one_free_axis_takes_what_the_others_leave(config, devices, sizes):
    assert config.sizes(devices) == sizes


@pytest.mark.parametrize(
    "config",
    [
        MeshConfig(data=3),
        MeshConfig(fsdp=3),
        MeshConfig(data=16),
        MeshConfig(data=4, fsdp=1, tensor=1),
        MeshConfig(data=-1, fsdp=-1),
        MeshConfig(data=0),
        MeshConfig(fsdp=0),
        MeshConfig(data=-2, fsdp=-4),
    ],
)
def test_axes_that_do_not_multiply_to_the_devices_are_refused(config):
    with pytest.raises(UserError, match="the mesh does not fit the devices") as raised:
        config.sizes(8)
    assert "8, the number of devices" in str(raised.value)


@pytest.mark.parametrize(
    ("batch", "accumulation", "nearest"),
    [(12, 1, "8 or 16"), (4, 1, "8"), (24, 2, "16 or 32"), (8, 3, "24")],
)
def test_a_batch_must_divide_over_shards_and_microbatches(batch, accumulation, nearest):
    mesh = make_mesh(MeshConfig())
    with pytest.raises(UserError, match="does not divide over the devices") as raised:
        check_batch(batch, accumulation, mesh)
    assert raised.value.fix == f"use {nearest}"


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device as far as a mesh asks."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


@pytest.mark.parametrize(
    ("sizes", "slices", "axis"),
    [
        (dict(data=2, fsdp=4), 2, "data"),
        (dict(data=1, fsdp=8), 2, "fsdp"),
        (dict(data=4, tensor=2), 4, "data"),
        (dict(data=1, fsdp=2, context=2, tensor=2), 2, "fsdp"),
    ],
)
def test_slices_lie_along_the_first_axis_that_is_split(sizes, slices, axis):
    chips = [Chip(i, i * slices // 8) for i in range(8)]
    mesh = make_mesh(MeshConfig(**sizes), chips[::-1])
    number = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    along = np.moveaxis(number, mesh.axis_names.index(axis), 0).reshape(sizes[axis], -1)
    assert (along == along[:, :1]).all(), "a slice has whole layers of the mesh"
    assert along[:, 0].tolist() == sorted(along[:, 0]) and len({*along[:, 0]}) == slices
    assert len({chip.id for chip in mesh.devices.flat}) == 8


def test_slices_may_lie_along_two_axes():
    chips = [Chip(i, i // 2) for i in range(8)]
    mesh = make_mesh(MeshConfig(data=2, fsdp=4), chips)
    number = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert number.reshape(2, 4).tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]
    chips = [Chip(i, i // 3) for i in range(12)]
    mesh = make_mesh(MeshConfig(data=6, fsdp=2), chips)
    number = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert number.reshape(6, 2).tolist() == [[0, 1]] * 3 + [[2, 3]] * 3


def test_slices_of_different_sizes_are_refused():
    chips = [Chip(i, i // 3) for i in range(8)]
    with pytest.raises(UserError, match="slices are not alike") as error:
        make_mesh(MeshConfig(), chips)
    assert error.value.got == "0: 3, 1: 3, 2: 2"


def test_a_tensor_axis_does_not_split_the_batch():
    mesh = make_mesh(MeshConfig(data=2, tensor=4))
    check_batch(2, 1, mesh)
    rows = {"tokens": np.arange(8, dtype=np.int32).reshape(4, 2)}
    array = global_batch(rows, batch_sharding(mesh), 4)["tokens"]
    shards = {str(shard.index): np.asarray(shard.data) for shard in array.addressable_shards}
    assert len(shards) == 2 and all(part.shape == (2, 2) for part in shards.values())
    assert np.array_equal(array, rows["tokens"])


def test_alone_a_process_decides_for_itself():
    assert jax.process_count() == 1
    assert agree(True) is True and agree(False) is False
    assert first_decides(lambda: 7) == 7
    with pytest.raises(UserError, match="mine"):
        first_decides(lambda: _raise(UserError("mine")))


def _raise(error):
    raise error


@pytest.mark.parametrize(
    "given",
    [
        dict(coordinator="localhost:1"),
        dict(coordinator="localhost:1", num_processes=2),
        dict(num_processes=2, process_id=0),
        dict(coordinator="localhost:1", num_processes=2, process_id=0, auto=True),
        dict(coordinator="localhost:1", num_processes=2, process_id=2),
        dict(coordinator="localhost:1", num_processes=2, process_id=-1),
    ],
)
def test_processes_described_by_halves_are_refused(given):
    with pytest.raises(UserError):
        DistributedConfig(**given)
