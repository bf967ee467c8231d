"""Gradients that are summed into shards, ring by ring, and where rings are."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from jaxssl.core.precision import Precision
from jaxssl.ops.linear import linear
from jaxssl.parallel.axes import into_shards, on_shards, ring_groups
from jaxssl.parallel.rules import DEFAULT, rings_of, use_layout

NAMES = ("embed", "heads", "head_dim")


@dataclasses.dataclass(frozen=True)
class Chip:
    coords: tuple[int, ...] | None
    id: int


def torus(shape, axes):
    """What `rings_of` asks of a mesh: chips of a torus of this shape, wound over row by row."""
    chips = np.empty(int(np.prod(shape)), object)
    for i, place in enumerate(np.ndindex(*shape)):
        chips[i] = Chip(place, i)
    return SimpleNamespace(axis_names=tuple(axes), devices=chips.reshape(*axes.values()))


@pytest.mark.parametrize(
    ("shape", "axes", "rings"),
    [
        ((4, 4, 4), {"data": 1, "fsdp": 64, "tensor": 1}, [(1,), (4, 4, 4), (1,)]),
        ((4, 4), {"data": 1, "fsdp": 16}, [(1,), (4, 4)]),
        ((4, 4, 8), {"fsdp": 16, "tensor": 8}, [(4, 4), (8,)]),
        ((2, 2, 1), {"fsdp": 4}, [(2, 2)]),
    ],
)
def test_rings_are_those_of_the_torus(shape, axes, rings):
    mesh = torus(shape, axes)
    assert [rings_of(mesh, axis) for axis in axes] == rings


def test_devices_without_places_are_one_ring():
    assert rings_of(tiny.mesh(fsdp=4, tensor=2), "fsdp") == (4,)


def test_groups_of_rings_are_places_that_differ_in_one():
    assert ring_groups((2, 3)) == (((0, 3), (1, 4), (2, 5)), ((0, 1, 2), (3, 4, 5)))
    assert ring_groups((4,)) == (((0, 1, 2, 3),),)


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
def test_a_gradient_summed_into_shards_is_that_of_one_device(sizes, rings):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(8, 4, 8)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(8, 2, 5)), jnp.float32)

    def gradient(summed):
        loss = lambda k: jnp.sum(jnp.sin(linear(x, k, None, 1, Precision(), False, summed)))
        return jax.jit(jax.grad(loss))

    with use_layout(tiny.mesh(*sizes), DEFAULT):
        summed = into_shards(NAMES, x.shape[:2])
        assert summed is not None and summed.dimension == 0
        assert [axis for axis, _ in summed.scatters] == [*rings]
        scatters = tuple((axis, ring_groups(sizes)) for axis, sizes in rings.items())
        summed = dataclasses.replace(summed, scatters=scatters)
        step = gradient(summed)
        text = step.lower(kernel).compile().as_text()
        got = step(kernel)
    assert "reduce-scatter" in text
    assert got.sharding.spec[0] == (tuple(rings) if len(rings) > 1 else [*rings][0])
    np.testing.assert_allclose(got, gradient(None)(kernel), rtol=2e-6, atol=2e-6)


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
