"""Layer norm against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.ops.norms import layer_norm

torch = pytest.importorskip("torch", reason="the reference layer norm")


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5, 0.5])
def test_layer_norm_and_gradients_equal_torch(epsilon):
    rng = np.random.default_rng(0)
    x = (3 + 2 * rng.standard_normal((4, 5, 24))).astype(np.float32)
    scale, bias, weigh = rng.standard_normal((3, 24)).astype(np.float32)

    def loss(x, scale, bias):
        return jnp.sum(layer_norm(x, scale, bias, epsilon) * weigh)

    leaves = [torch.tensor(a, requires_grad=True) for a in (x, scale, bias)]
    want = torch.nn.functional.layer_norm(leaves[0], (24,), leaves[1], leaves[2], epsilon)
    np.testing.assert_allclose(
        jax.jit(layer_norm)(x, scale, bias, epsilon), want.detach().numpy(), atol=3e-6
    )
    (want * torch.tensor(weigh)).sum().backward()
    for got, leaf in zip(jax.jit(jax.grad(loss, (0, 1, 2)))(x, scale, bias), leaves):
        np.testing.assert_allclose(got, leaf.grad.numpy(), rtol=1e-4, atol=2e-5)


def test_bfloat16_is_normalised_in_float32():
    x = (1000 + np.arange(64) % 7).astype(np.float32)  # in bfloat16 sums this would be lost
    low = jnp.asarray(x, jnp.bfloat16)
    out = layer_norm(low, jnp.ones(64), jnp.zeros(64), 1e-5)
    assert out.dtype == jnp.bfloat16
    exact = np.asarray(low, np.float64)
    want = (exact - exact.mean()) / exact.std()
    assert np.abs(np.asarray(out, np.float64) - want).max() < 0.02
