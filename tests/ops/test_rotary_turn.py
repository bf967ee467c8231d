"""The ways of turning halves: as slices, and on TPUs as a product."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.platform import use_platform
from jaxssl.ops.rotary import half_turn, rotate, rotations_of


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_half_turn_is_exact(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), dtype)
    expected = jnp.concatenate([-x[:, 4:], x[:, :4]], axis=-1)
    assert (half_turn(x) == expected).all() and half_turn(x).dtype == dtype


def test_both_ways_of_rotating_are_one():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3, 16)), jnp.float32)
    positions = jnp.arange(10).reshape(2, 5)
    turns = rotations_of(positions, np.geomspace(1, 1e-3, 8).astype(np.float32), 1.0)
    plain = rotate(x, *turns)
    with use_platform("tpu"):
        as_product = rotate(x, *turns)
    np.testing.assert_allclose(plain, as_product, rtol=0, atol=5e-7)
    assert jnp.abs(plain - x).max() > 0.1
