"""Gradients that are summed into shards, ring by ring, and where rings are."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import NamedSharding, PartitionSpec

from jaxssl.core.platform import use_platform
from jaxssl.core.precision import Precision
from jaxssl.ops.linear import linear
from jaxssl.parallel import axes
from jaxssl.parallel.axes import into_shards, on_shards, ring_by_ring, ring_groups, to_spec
from jaxssl.parallel.own_rows import is_summed_whole
from jaxssl.parallel.rules import DEFAULT, rings_of, use_layout

NAMES = ("embed", "heads", "head_dim")


@dataclasses.dataclass(frozen=True)
class Chip:
    coords: tuple[int, ...] | None
    id: int


def torus(shape, sizes):
    """What `rings_of` asks of a mesh: chips of a torus of this shape, wound over row by row."""
    chips = np.empty(int(np.prod(shape)), object)
    for i, place in enumerate(np.ndindex(*shape)):
        chips[i] = Chip(place, i)
    return SimpleNamespace(axis_names=tuple(sizes), devices=chips.reshape(*sizes.values()))


@pytest.mark.parametrize(
    ("shape", "sizes", "rings"),
    [
        ((4, 4, 4), {"data": 1, "fsdp": 64, "tensor": 1}, [(1,), (4, 4, 4), (1,)]),
        ((4, 4), {"data": 1, "fsdp": 16}, [(1,), (4, 4)]),
        ((4, 4, 8), {"fsdp": 16, "tensor": 8}, [(4, 4), (8,)]),
        ((2, 2, 1), {"fsdp": 4}, [(2, 2)]),
    ],
)
def test_rings_are_those_of_the_torus(shape, sizes, rings):
    mesh = torus(shape, sizes)
    assert [rings_of(mesh, axis) for axis in sizes] == rings


def test_devices_without_places_are_one_ring():
    assert rings_of(tiny.mesh(fsdp=4, tensor=2), "fsdp") == (4,)


def test_groups_of_rings_are_places_that_differ_in_one():
    assert ring_groups((2, 3)) == (((0, 3), (1, 4), (2, 5)), ((0, 1, 2), (3, 4, 5)))
    assert ring_groups((4,)) == (((0, 1, 2, 3),),)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "rings"),
    [
        ((1, 4, 1), {"fsdp": (4,)}),
        ((2, 4, 1), {"fsdp": (4,)}),
        ((2, 4, 1), {"fsdp": (2, 2)}),
        ((1, 2, 1, 4), {"fsdp": (2,), "context": (2, 2)}),
        ((2, 1, 1, 2), {"context": (2,)}),
    ],
)
def test_a_gradient_summed_into_shards_is_that_of_one_device(sizes, rings, slices, monkeypatch):
    """Over several slices of TPUs the kernel is gathered ring by ring, too, both ways."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(8, 4, 8)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(8, 2, 5)), jnp.float32)
    monkeypatch.setattr(axes, "slices_in_force", lambda: slices)

    def gradient(*how):
        loss = lambda k: jnp.sum(jnp.sin(linear(x, k, None, 1, Precision(), False, *how)))
        return jax.jit(jax.grad(loss))

    with use_layout(tiny.mesh(*sizes), DEFAULT):
        summed = into_shards(NAMES, x.shape[:2])
        assert summed is not None and summed.dimension == 0
        assert [axis for axis, _ in summed.scatters] == [*rings]
        scatters = tuple((axis, ring_groups(sizes)) for axis, sizes in rings.items())
        summed = dataclasses.replace(summed, scatters=scatters)
        assert ring_by_ring(summed) is None  # on a CPU
        with use_platform("tpu"):
            gathered = ring_by_ring(summed)
        step = gradient(summed, gathered)
        in_shards = jax.device_put(kernel, NamedSharding(tiny.mesh(*sizes), to_spec(NAMES)))
        text = step.lower(in_shards).compile().as_text()
        got = step(in_shards)
    assert "reduce-scatter" in text
    each = sum(map(len, rings.values()))
    assert (gathered is not None) == (slices > 1)
    assert slices == 1 or each <= len(re.findall(r" all-gather(?:-start)?\(", text)) <= 2 * each
    assert got.sharding.is_equivalent_to(in_shards.sharding, got.ndim)
    np.testing.assert_allclose(got, gradient()(kernel), rtol=2e-6, atol=2e-6)


def test_a_heads_gradient_is_summed_whole_where_another_axis_splits_it():
    for sizes, is_whole in [((2, 4, 1), False), ((1, 2, 2), True), ((1, 2, 1, 2), False)]:
        with use_layout(tiny.mesh(*sizes), DEFAULT):
            assert is_summed_whole(("embed", "vocab")) == is_whole
            assert not is_summed_whole(("norm",)) and is_summed_whole(())


def test_sums_are_left_to_xla_where_nothing_lies_in_shards():
    assert into_shards(NAMES, (8, 3)) is None  # no mesh
    for sizes, names, rows in [
        ((8, 1, 1), NAMES, (8, 3)),  # kernels are whole on each device
        ((1, 4, 1), (None, None), (8, 3)),
        ((1, 4, 1), NAMES, (6, 3)),  # rows that are not split
        ((1, 4, 2), NAMES, (8, 3)),  # another axis splits the kernel, too
        ((1, 2, 1, 2), NAMES, (8, 3)),  # three tokens over two devices
        ((1, 2, 1, 2), NAMES, (8,)),  # vectors of rows, the same on both devices of `context`
    ]:
        with use_layout(tiny.mesh(*sizes), DEFAULT):
            assert into_shards(names, rows) is None


def test_a_kernel_runs_on_the_shards_that_are_left_inside_of_others():
    """As attention does where each device goes through its microbatches by itself."""
    over = tiny.mesh(data=2, tensor=4)
    x = np.arange(32.0, dtype=np.float32).reshape(4, 8)
    seen, split = [], PartitionSpec(None, "tensor")

    def kernel(part):
        seen.append(part.shape)
        return part + jax.lax.axis_index("tensor")

    def inner(part):
        return on_shards(kernel, (split,), split)(part)

    rows = PartitionSpec("data")
    with jax.set_mesh(over):
        call = jax.shard_map(inner, in_specs=rows, out_specs=rows, axis_names={"data"})
        out = jax.jit(call)(x)
    assert {*seen} == {(2, 2)}
    np.testing.assert_array_equal(out, x + np.arange(8) // 2)
