"""Attention against a loop over rows, heads and queries in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.precision import Precision
from jaxssl.ops.attention import attention, segment_mask

B, T, N, D = 2, 7, 3, 4
ATTEND = jax.jit(functools.partial(attention, precision=Precision()))
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 2, 3, 3]], np.int32)


def inputs():
    rng = np.random.default_rng(0)
    return rng.standard_normal((3, B, T, N, D)).astype(np.float32)


def brute_force(q, k, v, causal):
    out = np.zeros((B, T, N, D))
    for b in range(B):
        for n in range(N):
            for t in range(T):
                seen = [
                    s
                    for s in range(T)
                    if SEGMENTS[b, s] == SEGMENTS[b, t] and (s <= t or not causal)
                ]
                scores = np.array([q[b, t, n].astype(float) @ k[b, s, n] for s in seen]) / np.sqrt(
                    D
                )
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                out[b, t, n] = sum(w * v[b, s, n] for w, s in zip(weights, seen))
    return out


@pytest.mark.parametrize("causal", [True, False])
def test_attention_equals_brute_force(causal):
    q, k, v = inputs()
    mask = segment_mask(jnp.asarray(SEGMENTS), causal=causal)
    np.testing.assert_allclose(ATTEND(q, k, v, mask), brute_force(q, k, v, causal), atol=2e-6)


def test_hidden_keys_and_values_do_not_matter_at_all():
    q, k, v = inputs()
    mask = segment_mask(jnp.asarray(SEGMENTS), causal=True)
    before = ATTEND(q, k, v, mask)
    k[0, 3:], v[0, 3:] = 1e4, -1e4  # documents after the first
    after = ATTEND(q, k, v, mask)
    assert np.array_equal(before[0, :3], after[0, :3])
    assert np.array_equal(before[1], after[1])


def test_padding_rows_are_finite():
    q, k, v = inputs()
    mask = segment_mask(jnp.zeros((B, T), jnp.int32), causal=True)
    assert np.isfinite(ATTEND(q, k, v, mask)).all()


def test_bfloat16_inputs_keep_a_float32_softmax():
    q, k, v = inputs()
    low = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    mask = segment_mask(jnp.asarray(SEGMENTS), causal=False)
    out = ATTEND(*low, mask)
    assert out.dtype == jnp.bfloat16
    want = brute_force(*(np.asarray(x, np.float32) for x in low), False)
    assert np.abs(np.asarray(out, np.float32) - want).max() < 0.03


def test_dropped_weights_scale_the_others():
    q, k, v = inputs()
    mask = np.ones((B, 1, T, T), bool)
    dropping = dict(dropout_rate=0.5, dropout_key=jax.random.key(0))
    out = attention(q, k, np.ones_like(v), mask, precision=Precision(), **dropping)
    assert len(np.unique(np.asarray(out).round(4))) > 10
    assert np.asarray(out).mean() == pytest.approx(1.0, abs=0.3)
