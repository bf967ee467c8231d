"""A number for an array's bits: it changes with any of them, and not with the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.ops.fingerprint import fingerprint

DTYPES = (jnp.float32, jnp.bfloat16, jnp.int8)


def of(x):
    return int(jax.jit(fingerprint)(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_flipped_bit_and_swapped_values_show(dtype):
    x = np.arange(24).reshape(4, 6).astype(dtype)
    flipped, swapped = x.copy(), x.copy()
    flipped.view(np.uint8)[2, 3] ^= 1
    swapped[1, 2], swapped[3, 5] = x[3, 5], x[1, 2]
    assert len({of(x), of(flipped), of(swapped), of(x * 0)}) == 4
    assert of(x) == of(x.copy())


@pytest.mark.parametrize("dtype", [jnp.int4, jnp.uint4])
def test_a_change_of_four_bits_shows(dtype):
    x = jnp.arange(8, dtype=jnp.int8).astype(dtype)
    assert len({of(x), of(x.at[3].set(4)), of(x[::-1])}) == 3


def test_minus_zero_is_not_zero():
    assert of(np.zeros(3, np.float32)) != of(np.array([0, -0.0, 0], np.float32))


def test_the_mesh_does_not_matter():
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    over = tiny.mesh(fsdp=8)
    spread = jax.device_put(x, jax.sharding.NamedSharding(over, jax.P("fsdp")))
    assert of(spread) == of(x)
