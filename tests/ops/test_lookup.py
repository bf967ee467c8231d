"""Rows of a table that lies in shards, against a plain look-up on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.precision import Precision
from jaxssl.models.layers import Embedding
from jaxssl.parallel.rules import DEFAULT, use_layout
from jaxssl.plan.hlo import read_costs

V, H, B, T = 40, 64, 8, 16
SIZES = [dict(fsdp=8), dict(data=2, fsdp=4), dict(fsdp=2, context=4), dict(data=2, context=2)]


def made(sizes, compute="float32"):
    """(rows, gradient of the table, the compiled program) of a look-up on a mesh."""
    precision, drawn = Precision(compute=compute), jax.nn.initializers.normal()
    layer = Embedding(V, H, ("vocab", "embed"), drawn, precision)
    generator = np.random.default_rng(0)
    table = jnp.asarray(generator.normal(size=(V, H)), jnp.float32)
    weights = jnp.asarray(generator.normal(size=(B, T, H)), compute)
    ids = jnp.asarray(generator.integers(0, V // 2, (B, T)))

    def loss(table):
        rows = layer.apply({"params": {"embedding": table}}, ids)
        return (rows * weights).sum(dtype=jnp.float32), rows

    with use_layout(tiny.mesh(**sizes), DEFAULT):
        program = jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(table).compile()
        (_, rows), gradient = program(table)
    return np.asarray(rows), np.asarray(gradient), program


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_rows_and_gradient_are_those_of_one_device(sizes, compute):
    (rows, gradient, _), (one, expected, _) = made(sizes, compute), made({}, compute)
    np.testing.assert_array_equal(rows, one)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert np.all(gradient[V // 2 :] == 0) and np.all(np.abs(gradient[: V // 2]).sum(1) > 0)


def test_the_gradient_goes_into_shards():
    """Each device sends 7/8 of it, once; summed whole it would be sent twice."""
    wire = read_costs(made(dict(fsdp=8))[2].as_text()).wire
    assert wire["reduce-scatter"] == pytest.approx(7 / 8 * 4 * V * H)
    assert wire.get("all-reduce", 0) < 100  # the loss
