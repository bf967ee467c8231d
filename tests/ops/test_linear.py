"""The linear layer's own backward pass against autodiff, and the dtype of its sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.precision import Precision
from jaxssl.ops.linear import linear

CASES = {
    "dense": ((2, 5, 6), (6, 7), (7,), 1, "bti,io->bto"),
    "to heads": ((2, 5, 6), (6, 3, 2), (3, 2), 1, "bti,ind->btnd"),
    "from heads": ((2, 5, 3, 2), (3, 2, 6), (6,), 2, "btnd,ndo->bto"),
    "vector": ((6,), (6, 4), (4,), 1, "i,io->o"),
}


def operands(shape, kernel, bias, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (shape, kernel, bias)]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_and_its_gradients_equal_einsum_and_autodiff(case, with_bias):
    shape, kernel_shape, bias_shape, num_in, equation = case
    x, kernel, bias = operands(shape, kernel_shape, bias_shape)
    bias = bias if with_bias else None
    weigh = lambda y: jnp.sum(jnp.sin(y))

    def ours(x, kernel, bias):
        return weigh(linear(x, kernel, bias, num_in, Precision()))

    def theirs(x, kernel, bias):
        y = jnp.einsum(equation, x, kernel)
        return weigh(y if bias is None else y + bias)

    arguments = (0, 1, 2) if with_bias else (0, 1)
    got = jax.jit(jax.value_and_grad(ours, arguments))(x, kernel, bias)
    want = jax.jit(jax.value_and_grad(theirs, arguments))(x, kernel, bias)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def bf16_gradients(reduce):
    """Kernel and bias gradients over many rows: (ours, naive, exact), operands in bfloat16."""
    precision = Precision(compute="bfloat16", reduce=reduce)
    x, kernel, bias = operands((4096, 8), (8, 4), (4,))
    dy = operands((4096, 4), (1,), (1,), seed=1)[0].astype(jnp.bfloat16)

    def naive(x, kernel, bias):
        return x.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16) + bias.astype(jnp.bfloat16)

    def pull(function):
        return jax.jit(lambda *a: jax.vjp(function, *a)[1](dy)[1:])(x, kernel, bias)

    exact_x, exact_dy = (np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x, dy))
    exact = (exact_x.T @ exact_dy, exact_dy.sum(axis=0))
    return pull(lambda *a: linear(*a, 1, precision)), pull(naive), exact


def error(got, want):
    return max(np.abs(np.asarray(g) - w).max() / np.abs(w).max() for g, w in zip(got, want))


def test_bfloat16_compute_sums_weight_gradients_in_float32():
    ours, naive, exact = bf16_gradients("float32")
    assert all(g.dtype == jnp.float32 for g in ours)
    assert error(ours, exact) < 1e-5
    assert error(naive, exact) > 1e-3, "autodiff alone rounds the sums: the test would see it"


def test_the_reduction_dtype_is_the_declared_one():
    ours, _, exact = bf16_gradients("bfloat16")
    assert error(ours, exact) > 1e-3


def test_the_product_runs_in_the_compute_dtype():
    x, kernel, bias = operands((3, 6), (6, 2), (2,))
    y = linear(x, kernel, bias, 1, Precision(compute="bfloat16"))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), x @ kernel + bias, rtol=0.05, atol=0.05)


def test_wide_products_are_not_rounded_to_the_compute_dtype():
    x, kernel, _ = operands((4, 64), (64, 512), (1,))
    half = Precision(compute="bfloat16")
    wide = jax.jit(lambda x, k: linear(x, k, None, 1, half, True))(x, kernel)
    exact = np.asarray(x.astype(jnp.bfloat16), np.float64) @ np.asarray(
        kernel.astype(jnp.bfloat16), np.float64
    )
    assert wide.dtype == jnp.float32
    np.testing.assert_allclose(wide, exact, rtol=1e-4, atol=1e-4)
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(linear(x, k, None, 1, half, True) ** 2)))
    assert gradient(x, kernel).dtype == x.dtype
