"""What is done to logits against `transformers`' own processors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is transformers on torch")

from transformers.generation import logits_process as theirs  # noqa: E402

from jaxssl.ops import logits as ours  # noqa: E402

B, S, V = 6, 20, 11  # and of these four in the history, so that they repeat
R = np.random.default_rng(0)
HISTORY = R.integers(0, 4, (B, S)).astype(np.int32)
LENGTHS = np.array([1, 2, 5, 12, 19, 20], np.int32)
LOGITS = (3 * R.standard_normal((B, V))).astype(np.float32)


def expected(processor):
    rows = []
    for row, length, logits in zip(HISTORY, LENGTHS, LOGITS):
        history = torch.tensor(row[:length]).long()[None]
        rows.append(processor(history, torch.tensor(logits)[None].clone())[0].numpy())
    return np.stack(rows)


def check(made, processor):
    wanted = expected(processor)
    assert np.array_equal(np.isinf(made), np.isinf(wanted))
    assert np.allclose(made, wanted, rtol=1e-6, atol=1e-6)
    assert not np.array_equal(wanted, LOGITS), "the processor must change something"


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_the_repetition_penalty(penalty):
    made = jax.jit(ours.penalised)(LOGITS, HISTORY, LENGTHS, penalty)
    check(made, theirs.RepetitionPenaltyLogitsProcessor(penalty))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ngrams_come_once(size):
    made = jax.jit(ours.without_repeats, static_argnums=3)(LOGITS, HISTORY, LENGTHS, size)
    check(made, theirs.NoRepeatNGramLogitsProcessor(size))


def test_long_ngrams_that_do_come_again():
    history = np.tile(np.array([3, 1, 4, 1, 5], np.int32), (1, 4))
    lengths = np.array([18], np.int32)  # ... 3 1 4, and 1 would be the fourth
    made = ours.without_repeats(LOGITS[:1], history, lengths, 4)
    assert np.flatnonzero(np.isinf(made[0])).tolist() == [1]
    rule = theirs.NoRepeatNGramLogitsProcessor(4)
    wanted = rule(torch.tensor(history[:, :18]).long(), torch.tensor(LOGITS[:1]).clone())
    assert np.array_equal(made, wanted.numpy())


def test_no_end_comes_too_early():
    ends, new = jnp.array([2, 7]), jnp.arange(B)
    made = np.asarray(ours.no_end_before(LOGITS, new, ends, 3))
    for row, (logits, number) in enumerate(zip(LOGITS, range(B))):
        rule = theirs.MinNewTokensLengthLogitsProcessor(4, 3, [2, 7], device="cpu")
        history = torch.zeros((1, 4 + number), dtype=torch.long)
        wanted = rule(history, torch.tensor(logits)[None].clone())[0].numpy()
        assert np.array_equal(made[row], wanted), row


@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_largest_alone(count):
    made = np.asarray(ours.largest(LOGITS, count))
    rule = theirs.TopKLogitsWarper(count)
    assert np.array_equal(made, expected(rule))


@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_the_nucleus(share):
    check(np.asarray(ours.nucleus(LOGITS, share)), theirs.TopPLogitsWarper(share))


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_those_that_are_likely_enough(share):
    check(np.asarray(ours.likely_enough(LOGITS, share)), theirs.MinPLogitsWarper(share))
