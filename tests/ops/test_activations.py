"""Activations against formulas and other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from jaxssl.ops.activations import gelu

X = np.linspace(-6, 6, 4001)


def test_gelu_is_x_times_the_normal_distribution():
    np.testing.assert_allclose(gelu(jnp.asarray(X, jnp.float32)), X * ndtr(X), atol=1e-6, rtol=1e-5)


def test_its_gradient_is_the_derivative_of_the_formula():
    want = ndtr(X) + X * np.exp(-0.5 * X**2) / np.sqrt(2 * np.pi)
    _, pull = jax.vjp(gelu, jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(pull(jnp.full(X.shape, 3.0))[0], 3 * want, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once(dtype):
    x = jnp.asarray(X, dtype)
    exact = np.asarray(x, np.float64) * ndtr(np.asarray(x, np.float64))
    out = gelu(x)
    assert out.dtype == dtype
    spacing = float(jnp.finfo(dtype).eps)
    assert (np.abs(np.asarray(out, np.float64) - exact) <= spacing * np.abs(exact) + 1e-6).all()
