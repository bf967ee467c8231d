"""Losses over labels against torch's formulas and plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxssl.ops.label_losses import (
    sigmoid_loss,
    softmax_loss,
    squared_loss,
    symmetric_binary_divergence,
    symmetric_divergence,
)
from jaxssl.ops.pooling import pool, states_at

RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.standard_normal((6, 4))).astype(np.float32)
LABELS = RNG.integers(0, 4, 6)
MANY = RNG.integers(0, 2, (6, 4)).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_is_that_of_optax_and_torch(smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 4), smoothing)
    want = optax.softmax_cross_entropy(LOGITS, targets)
    np.testing.assert_allclose(softmax_loss(LOGITS, LABELS, smoothing), want, rtol=1e-5)


def test_focal_loss_weighs_by_how_wrong_a_row_is():
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    right = p[np.arange(6), LABELS]
    want = -((1 - right) ** 2) * np.log(right)
    np.testing.assert_allclose(softmax_loss(LOGITS, LABELS, focal=2.0), want, rtol=1e-4)


@pytest.mark.parametrize(("smoothing", "focal"), [(0.0, 0.0), (0.2, 0.0), (0.0, 2.0)])
def test_sigmoid_loss_is_the_mean_over_labels(smoothing, focal):
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    target = (1 - smoothing) * MANY + smoothing / 2
    loss = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    right = np.where(MANY > 0.5, p, 1 - p)
    want = (loss * (1 - right) ** focal).mean(-1)
    np.testing.assert_allclose(sigmoid_loss(LOGITS, MANY, smoothing, focal), want, rtol=1e-4)


def test_divergences_are_sums_of_both_directions():
    other = (LOGITS + RNG.standard_normal(LOGITS.shape)).astype(np.float32)
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (LOGITS, other))
    want = (p * np.log(p / q) + q * np.log(q / p)).sum(-1)
    np.testing.assert_allclose(symmetric_divergence(LOGITS, other), want, rtol=1e-3, atol=1e-6)
    p, q = (1 / (1 + np.exp(-x)) for x in (LOGITS, other))
    each = lambda a, b: a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    want = (each(p, q) + each(q, p)).sum(-1)
    np.testing.assert_allclose(
        symmetric_binary_divergence(LOGITS, other), want, rtol=1e-3, atol=1e-6
    )


def test_extreme_logits_stay_finite():
    far = jnp.array([[200.0, -200.0]])
    for loss in (
        softmax_loss(far, jnp.array([1])),
        sigmoid_loss(far, jnp.array([[0, 1]])),
        squared_loss(far, 0.0),
    ):
        assert np.isfinite(loss).all()


def test_pooling_ignores_padding():
    hidden = jnp.asarray(RNG.standard_normal((2, 5, 3)), jnp.float32)
    segments = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert np.array_equal(pool(hidden, segments, "cls"), hidden[:, 0])
    assert np.array_equal(pool(hidden, segments, "last"), hidden[[0, 1], [2, 4]])
    want = np.stack([hidden[0, :3].mean(0), hidden[1].mean(0)])
    np.testing.assert_allclose(pool(hidden, segments, "mean"), want, rtol=1e-6)
    half = pool(hidden.astype(jnp.bfloat16), segments, "mean")
    assert half.dtype == jnp.bfloat16


def test_states_lie_side_by_side_in_the_order_of_their_positions():
    hidden = jnp.asarray(RNG.standard_normal((3, 4, 2)), jnp.float32)
    got = states_at(hidden, jnp.array([[2, 0], [1, 1], [9, 3]]))  # 9 is beyond the row
    want = [np.concatenate([h[a], h[b]]) for h, (a, b) in zip(hidden, [(2, 0), (1, 1), (3, 3)])]
    assert np.array_equal(got, want)
