"""Cross entropy against torch; chunked sums against the same sum in one piece."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.ops.losses import chunked_sum, cross_entropy, filled_chunks, sequence_chunks

B, T, H, V = 3, 12, 5, 11


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = 4 * rng.standard_normal((B, T, V)).astype(np.float32)
    targets = rng.integers(0, V, (B, T)).astype(np.int32)
    weights = rng.integers(0, 3, (B, T)).astype(np.float32)
    return logits, targets, weights


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_cross_entropy_equals_torch(z_loss):
    torch = pytest.importorskip("torch", reason="the reference cross entropy")
    logits, targets, weights = example()
    ours = jax.jit(jax.value_and_grad(lambda x: cross_entropy(x, targets, weights, z_loss)[0]))
    loss, gradient = ours(logits)

    x = torch.tensor(logits, requires_grad=True)
    nll = torch.nn.functional.cross_entropy(
        x.flatten(0, 1), torch.tensor(targets).long().flatten(), reduction="none"
    )
    want = nll + z_loss * torch.logsumexp(x, -1).flatten() ** 2
    want = (want * torch.tensor(weights).flatten()).sum()
    want.backward()
    assert float(loss) == pytest.approx(want.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=2e-6)
    _, sums = cross_entropy(logits, targets, weights, z_loss)
    plain = float((nll.detach() * torch.tensor(weights).flatten()).sum())
    assert float(sums["nll"]) == pytest.approx(plain, rel=1e-6)


def test_correct_counts_targets_with_the_largest_logit():
    logits, targets, weights = example()
    _, sums = cross_entropy(logits, targets, weights)
    assert float(sums["correct"]) == ((logits.argmax(-1) == targets) * weights).sum()


def test_huge_logits_stay_finite():
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    loss, sums = cross_entropy(logits, np.array([1]), np.ones(1))
    assert float(loss) == pytest.approx(2e4) and np.isfinite(sums["nll"])


def head_loss(params, hidden, constants):
    targets, weights = constants
    logits = jnp.tanh(hidden @ params["kernel"]) @ params["table"].T
    return cross_entropy(logits, targets, weights, 1e-3)


@functools.cache
def loss_and_gradients(count):
    def loss(params, hidden, targets, weights, scale):
        cut = lambda x: sequence_chunks(x, count)
        total, sums = chunked_sum(head_loss, params, cut(hidden), (cut(targets), cut(weights)))
        return scale * total + jnp.sum(hidden), sums

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@functools.cache
def plain_loss_and_gradients():
    def loss(params, hidden, targets, weights, scale):
        total, sums = head_loss(params, hidden, (targets, weights))
        return scale * total + jnp.sum(hidden), sums

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


def inputs(seed):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    params = {"kernel": normal(H, H), "table": normal(V, H)}
    _, targets, weights = example(seed)
    return params, normal(B, T, H), targets, weights


def trees_close(got, want, tolerance=2e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([1, 2, 3, 6, 12]), st.integers(0, 5), st.sampled_from([1.0, -0.37]))
def test_chunks_change_neither_value_nor_gradients(count, seed, scale):
    arguments = (*inputs(seed), scale)
    trees_close(loss_and_gradients(count)(*arguments), plain_loss_and_gradients()(*arguments))


def test_the_value_without_gradients_is_the_same():
    params, hidden, targets, weights = inputs(0)
    cut = lambda x: sequence_chunks(x, 4)
    got = jax.jit(functools.partial(chunked_sum, head_loss))(
        params, cut(hidden), (cut(targets), cut(weights))
    )
    trees_close(got, head_loss(params, hidden, (targets, weights)))


def test_float32_parameters_add_their_gradients_in_float32():
    def low(params, hidden, constants):
        logits = hidden.astype(jnp.bfloat16) @ params.T.astype(jnp.bfloat16)
        return cross_entropy(logits, *constants)

    rng = np.random.default_rng(0)
    table, hidden = rng.standard_normal((V, H)), rng.standard_normal((2, 64, H))
    targets, ones = rng.integers(0, V, (2, 64)), np.ones((2, 64), np.float32)
    cut = lambda x: sequence_chunks(jnp.asarray(x), 64)

    def loss(table):
        hidden_chunks = cut(hidden.astype(np.float32))
        return chunked_sum(low, table, hidden_chunks, (cut(targets), cut(ones)))[0]

    gradient = jax.jit(jax.grad(loss))(table.astype(np.float32))
    assert gradient.dtype == jnp.float32
    # A sum of 64 bfloat16 gradients kept in float32 has bits that bfloat16 could not hold.
    assert not np.array_equal(gradient, gradient.astype(jnp.bfloat16).astype(jnp.float32))


def test_sequence_chunks_keep_every_row_in_order():
    x = np.arange(2 * 6 * 3).reshape(2, 6, 3)
    chunks = np.asarray(sequence_chunks(jnp.asarray(x), 3))
    assert chunks.shape == (3, 2, 2, 3)
    assert np.array_equal(np.concatenate(list(chunks), axis=1), x)


@pytest.mark.parametrize(
    ("chunk", "shape"),
    [(3, (2, 2, 3)), (4, (2, 2, 3)), (5, (2, 2, 3)), (1, (6, 2, 1)), (9, (1, 2, 6))],
)
def test_chunks_that_divide_the_sequence_are_equal_and_as_few_as_can_be(chunk, shape):
    x = np.arange(1, 2 * 6 + 1).reshape(2, 6)
    chunks = np.asarray(filled_chunks(jnp.asarray(x), chunk))
    assert chunks.shape == shape
    assert np.array_equal(np.concatenate(list(chunks), axis=1), x)


def test_the_last_chunk_is_filled_up_with_zeros():
    x = np.arange(1, 2 * 7 * 3 + 1).reshape(2, 7, 3)
    chunks = np.asarray(filled_chunks(jnp.asarray(x), 3))
    assert chunks.shape == (3, 2, 3, 3)
    joined = np.concatenate(list(chunks), axis=1)
    assert np.array_equal(joined[:, :7], x) and not joined[:, 7:].any()
