"""Arrays in codes: values by the formulas, published quantiles, sizes, and products with them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.precision import Precision
from jaxssl.ops.codes import block_of, by_part, decode, encode, values
from jaxssl.ops.linear import linear

SHAPE, AXIS = (3, 128, 2), 1
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""Dettmers et al., 2023, appendix E."""


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def largest(x):
    """Of each block of 64, at each of its values."""
    blocks = np.abs(x).reshape(3, 2, 64, 2).max(2)
    return np.repeat(blocks, 64, axis=1)


@pytest.mark.parametrize(("form", "steps"), [("int8", 127), ("int4", 7)])
def test_integers_are_the_nearest_of_equal_steps_up_to_the_largest_of_a_block(x, form, steps):
    step, made = largest(x) / steps, decode(encode(x, form, AXIS))
    codes = made / step
    np.testing.assert_allclose(codes, np.round(codes), rtol=0, atol=1e-4)
    assert np.abs(codes).max() == pytest.approx(steps, abs=1e-4)
    assert np.all(np.abs(made - x) <= 0.5001 * step)


def test_quantiles_are_the_nearest_of_the_published_ones(x):
    scaled = x / largest(x)
    nearest = np.array(NF4)[np.abs(scaled[..., None] - np.array(NF4)).argmin(-1)]
    np.testing.assert_allclose(
        decode(encode(x, "nf4", AXIS)), nearest * largest(x), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize(("form", "bits"), [("int8", 8), ("int4", 4), ("nf4", 4)])
def test_a_device_holds_so_many_bits_a_value_and_half_a_bit_of_scales(x, form, bits):
    held = jax.jit(lambda x: decode(x)).lower(encode(x, form, AXIS)).compile().memory_analysis()
    assert held.argument_size_in_bytes == x.size * bits // 8 + x.size // 64 * 4


def test_an_array_in_codes_has_its_shape_and_says_what_it_is_made_of(x):
    coded = encode(jnp.asarray(x, jnp.bfloat16), "nf4", AXIS)
    assert (coded.shape, coded.ndim, coded.size) == (SHAPE, 3, x.size)
    assert coded.dtype == decode(coded).dtype == values(coded).dtype == jnp.bfloat16
    assert [(part, array.shape) for part, array in by_part(coded)] == [
        (".codes", SHAPE),
        (".scale", (3, 2, 2)),
    ]
    assert by_part(x) == [("", x)] and values(x) is x


def test_blocks_are_of_64_or_of_what_divides_an_axis():
    assert [block_of(size) for size in (4096, 768, 80, 17)] == [64, 64, 16, 1]


@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
def test_a_product_is_that_with_the_decoded_kernel_and_so_is_the_gradient_of_what_goes_in(form):
    rng = np.random.default_rng(1)
    kernel = encode(rng.standard_normal((64, 2, 16)).astype(np.float32), form, 0)
    x, dy = (rng.standard_normal((4, 5, *s)).astype(np.float32) for s in ((64,), (2, 16)))
    bias, precision = np.ones((2, 16), np.float32), Precision()

    def product(kernel):
        def of(x, bias):
            return linear(x, kernel, bias, 1, precision)

        out, back = jax.vjp(of, x, bias)
        return out, *back(dy)

    for mine, wanted in zip(jax.jit(product)(kernel), jax.jit(product)(decode(kernel))):
        np.testing.assert_array_equal(mine, wanted)


def test_the_backward_pass_is_given_codes_and_not_their_values():
    kernel, x = encode(np.ones((64, 32), np.float32), "int8", 0), np.ones((4, 64), np.float32)

    def product(x):
        return linear(x, kernel, None, 1, Precision())

    kept = [leaf.dtype for leaf in jax.tree.leaves(jax.vjp(product, x)[1]) if leaf.size == 64 * 32]
    assert kept == [jnp.int8]


@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
@pytest.mark.parametrize("spec", [("fsdp", None, None), (None, "fsdp", None), (None, None, "fsdp")])
def test_codes_lie_on_a_mesh_as_their_array_would_and_nothing_is_sent(form, spec):
    places = jax.sharding.NamedSharding(tiny.mesh(fsdp=8), jax.P(*spec))
    x = jax.ShapeDtypeStruct((8, 1024, 8), jnp.float32, sharding=places)
    coded = jax.eval_shape(lambda x: encode(x, form, 1), x)
    held = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=places), coded)
    coding = jax.jit(
        lambda x: encode(x, form, 1), out_shardings=jax.tree.map(lambda _: places, coded)
    )
    decoding = jax.jit(decode, out_shardings=places)
    for text in (coding.lower(x).compile().as_text(), decoding.lower(held).compile().as_text()):
        assert not re.findall(r"all-gather|all-to-all|collective-permute|all-reduce", str(text))
    whole = np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)
    np.testing.assert_array_equal(
        decoding(coding(jax.device_put(whole, places))), decode(encode(whole, form, 1))
    )
