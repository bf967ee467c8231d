"""Attention by patterns, against a loop over rows, heads and queries in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.ops.attention import local, xla
from jaxssl.ops.attention.kernels import KERNELS, Call, Kernel, call_of, check_call
from jaxssl.ops.attention.operands import Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern, Tokens

B, T, N, D = 2, 7, 3, 4
SEGMENTS = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 2, 3, 3]], np.int32)
PREFIX = np.array([[1, 1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 0, 0, 0]], bool)


@functools.partial(jax.jit, static_argnames=("pattern", "rate"))
def attend(q, k, v, pattern, queries, keys, rate=0.0, key=None, rows=None, bias=None):
    operands = Operands(q, k, v, queries, keys, bias)
    return xla.attend(operands, pattern, Precision(), WeightDropout(rate, key, rows))


def inputs(length=T, keys=T, heads=N, seed=0):
    rng = np.random.default_rng(seed)
    sizes = [(B, length, N, D), (B, keys, heads, D), (B, keys, heads, D)]
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


def tokens(segments=SEGMENTS, prefix=None):
    both = None if prefix is None else jnp.asarray(prefix)
    return Tokens(jnp.asarray(segments), prefix=both)


def sees(pattern, b, t, s, segments, prefix):
    """Whether query t sees token s, in words."""
    if segments[b, t] != segments[b, s]:
        return False
    if pattern.prefix and prefix[b, s]:
        return True
    is_behind = s <= t or not pattern.causal
    return is_behind and (pattern.window is None or abs(t - s) <= pattern.window)


def brute_force(q, k, v, pattern, segments=SEGMENTS, prefix=PREFIX, bias=None):
    out = np.zeros(q.shape)
    for b, t, n in itertools.product(*(range(size) for size in q.shape[:3])):
        head = n * k.shape[2] // q.shape[2]
        tokens = range(segments.shape[1])
        seen = [s for s in tokens if sees(pattern, b, t, s, segments, prefix)]
        seen = [*range(pattern.always), *(s + pattern.always for s in seen)]
        scores = np.array([q[b, t, n].astype(float) @ k[b, s, head] for s in seen]) / np.sqrt(D)
        if bias is not None:
            scores = scores + bias[n, t, seen]
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, t, n] = sum(w * v[b, s, head] for w, s in zip(weights, seen))
    return out


PATTERNS = [
    Pattern(causal=causal, window=window, prefix=prefix, always=always)
    for causal, window, prefix, always in itertools.product(
        (False, True), (None, 0, 2), (False, True), (0, 2)
    )
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_each_pattern_equals_brute_force(pattern):
    q, k, v = inputs(keys=T + pattern.always)
    given = tokens(prefix=PREFIX)
    got = attend(q, k, v, pattern, given, given)
    np.testing.assert_allclose(got, brute_force(q, k, v, pattern), atol=2e-6)


def test_queries_in_groups_share_keys_and_a_bias_is_added_to_scores():
    q, k, v = inputs(heads=1)
    bias = np.random.default_rng(1).standard_normal((N, T, T)).astype(np.float32)
    got = attend(q, k, v, Pattern(causal=True), tokens(), tokens(), bias=jnp.asarray(bias))
    want = brute_force(q, k, v, Pattern(causal=True), bias=bias)
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_queries_have_their_own_positions_and_segments():
    """As with a cache: two queries at places 3 and 4 of seven keys of one document."""
    pattern = Pattern(causal=True, window=2)
    q, k, v = inputs()
    places = np.array([[3, 4], [5, 6]], np.int32)
    got = attend(q[:, :2], k, v, pattern, Tokens(positions=jnp.asarray(places)), Tokens())
    one = np.ones((B, T), np.int32)
    wide = np.zeros_like(q)
    for row in range(B):
        wide[row, places[row]] = q[row, :2]
    want = brute_force(wide, k, v, pattern, one)
    for row in range(B):
        np.testing.assert_allclose(got[row], want[row, places[row]], atol=2e-6)


def test_hidden_keys_and_values_do_not_matter_at_all():
    q, k, v = inputs()
    run = lambda: attend(q, k, v, Pattern(causal=True), tokens(), tokens())
    before = run()
    k[0, 3:], v[0, 3:] = 1e4, -1e4  # documents after the first
    after = run()
    assert np.array_equal(before[0, :3], after[0, :3])
    assert np.array_equal(before[1], after[1])


def test_padding_rows_are_finite():
    padding = tokens(np.zeros((B, T), np.int32))
    assert np.isfinite(attend(*inputs(), Pattern(causal=True), padding, padding)).all()


def test_bfloat16_inputs_keep_a_float32_softmax():
    low = [x.astype(jnp.bfloat16) for x in inputs()]
    out = attend(*low, Pattern(), tokens(), tokens())
    assert out.dtype == jnp.bfloat16
    want = brute_force(*(np.asarray(x, np.float32) for x in low), Pattern())
    assert np.abs(np.asarray(out, np.float32) - want).max() < 0.03


def test_dropped_weights_scale_the_others():
    q, k, v = inputs()
    out = attend(q, k, np.ones_like(v), Pattern(), Tokens(), Tokens(), 0.5, jax.random.key(0))
    assert len(np.unique(np.asarray(out).round(4))) > 10
    assert np.asarray(out).mean() == pytest.approx(1.0, abs=0.3)


# --- Windows in blocks ------------------------------------------------------------------------


LONG = 75  # no multiple of a block
LONG_SEGMENTS = np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], [9, 31, 30, 5], axis=1).astype(np.int32)
assert LONG_SEGMENTS.shape == (B, LONG)


@pytest.mark.parametrize("window", [1, 3, 16, 18])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_a_window_equal_brute_force(causal, window):
    pattern = Pattern(causal=causal, window=window)
    assert local.is_cheaper(pattern, LONG) == (window < 17 or causal)
    given = tokens(LONG_SEGMENTS)
    q, k, v = inputs(LONG, LONG)
    want = brute_force(q, k, v, pattern, LONG_SEGMENTS)
    np.testing.assert_allclose(attend(q, k, v, pattern, given, given), want, atol=2e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_have_the_gradients_and_the_dropout_of_a_mask_over_all_keys(causal, monkeypatch):
    pattern, given = Pattern(causal=causal, window=5), tokens(LONG_SEGMENTS)

    def gradients():
        def loss(q, k, v):
            rows = jnp.asarray([7, 2], jnp.uint32)
            out = attend(q, k, v, pattern, given, given, 0.4, jax.random.key(3), rows)
            return jnp.sum(jnp.sin(out)), out

        attend.clear_cache()
        (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*inputs(LONG, LONG))
        return out, *grads

    blocks = gradients()
    asked = []
    monkeypatch.setattr(local, "is_cheaper", lambda *given: asked.append(given) or False)
    whole = gradients()
    assert asked, "the same computation twice"
    for got, want in zip(blocks, whole, strict=True):
        np.testing.assert_allclose(got, want, atol=3e-6)


def test_a_window_costs_no_more_than_its_keys():
    """Scores of [T, T] are not made: what is allocated grows with the row, not with its square."""

    def temporaries(length):
        q, k, v = inputs(length, length)
        f = lambda *x: attend(*x, Pattern(window=16), Tokens(), Tokens())
        return jax.jit(f).lower(q, k, v).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(2048) < 2.2 * temporaries(1024)


# --- Kernels ----------------------------------------------------------------------------------


def test_a_kernel_is_refused_what_it_does_not_take(monkeypatch):
    def lacks(call):
        return "dropout of weights" if call.has_dropout else "bias" if call.has_bias else None

    monkeypatch.setitem(KERNELS, "narrow", Kernel(KERNELS["xla"].attend, lacks))
    operands = Operands(*map(jnp.asarray, inputs()), tokens(), tokens())

    def run(drop):
        check_call("narrow", call_of(operands, Pattern(), Precision(), drop))

    run(WeightDropout(0.1))  # in evaluation nothing is dropped
    with pytest.raises(UserError, match="narrow cannot") as error:
        run(WeightDropout(0.1, jax.random.key(0)))
    assert error.value.where == "model.attention" and error.value.expected == "one of auto, xla"
    assert "it takes no dropout of weights" in error.value.got
    with pytest.raises(UserError, match="it takes no bias"):
        check_call("narrow", Call(pattern=Pattern(), head_dim=D, has_bias=True))


def test_patterns_out_of_range_are_refused():
    for mistake in ({"window": -1}, {"always": -1}):
        with pytest.raises(UserError, match="out of range"):
            Pattern(**mistake)
