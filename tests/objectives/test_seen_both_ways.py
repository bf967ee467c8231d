"""Objectives for blocks that see both ways: prefix LM, masked next token, masked diffusion."""

import itertools
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
from masks import corrupted, long_batch, packed_batch

from jaxssl.core.errors import UserError
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_diffusion import MaskedDiffusion
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masked_next_token import MaskedNextToken
from jaxssl.objectives.prefix_lm import PrefixLm

T = 64


@pytest.fixture(scope="module")
def batch():
    return packed_batch(count=16, seed=4)


# --- Prefix LM ----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [None, 0.25])
def test_each_document_has_a_prefix_and_a_rest_that_is_guessed(share, batch):
    made = corrupted(batch, PrefixLm(target_share=share))
    plain = corrupted(batch, CausalLm())
    cuts = []
    for segments, prefix, weights, all_weights in zip(
        batch["segment_ids"], made["prefix"], made["next_weights"], plain["next_weights"]
    ):
        for document in range(1, segments.max() + 1):
            inside = np.flatnonzero(segments == document)
            n = len(inside)
            cut = int(prefix[inside].sum())
            assert prefix[inside].tolist() == [1] * cut + [0] * (n - cut)
            assert 1 <= cut <= max(n - 1, 1)
            if share is not None:
                assert cut == min(max(n - round(n * share), 1), max(n - 1, 1))
            # State i guesses token i + 1, if that is behind the prefix.
            expected = [float(1 <= cut <= i + 1 < n) for i in range(n)]
            assert weights[inside].tolist() == expected
            cuts.append((cut, n))
        assert not (weights > all_weights).any() and not prefix[segments == 0].any()
    if share is None:
        long = [cut / n for cut, n in cuts if n > 20]
        assert min(long) < 0.3 and max(long) > 0.7


def test_a_prefix_is_seen_whole_and_the_rest_causally():
    row = tiny.rows([tiny.random_documents([12, 8], seed=3)])
    objective = PrefixLm(target_share=0.5)
    made = corrupted(row, objective)
    model = Model(tiny.bert(pooler=False), (CAUSAL_LM,))
    params = tiny.random_params(model)

    def states(tokens):
        return np.asarray(
            objective.forward(model, params, {**made, "tokens": tokens}, None)["hidden"]
        )

    before = states(made["tokens"])
    for place, seen_from in ((4, range(12)), (8, range(8, 12)), (15, range(12, 20))):
        tokens = np.array(made["tokens"])
        tokens[0, place] = 5 + (tokens[0, place] + 7) % 30
        moved = np.abs(states(tokens) - before).max(axis=-1)[0] > 1e-6
        assert np.flatnonzero(moved).tolist() == list(seen_from)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(UserError, match="share of a document"):
        PrefixLm(target_share=1.0)


# --- Masked next token --------------------------------------------------------------------------


def test_the_state_before_guesses_what_was_masked(batch):
    objective = MaskedNextToken(rate=0.3, slots=T)
    made, plain = corrupted(batch, objective), corrupted(batch, MaskedLm(rate=0.3, slots=T))
    assert np.array_equal(made["tokens"], plain["tokens"])
    counted = made["mask_weights"] > 0
    lost = (plain["mask_weights"] > 0) & ~counted
    first = np.take_along_axis(batch["positions"], plain["mask_positions"], axis=1) == 0
    assert np.array_equal(lost, (plain["mask_weights"] > 0) & first) and lost.any()
    rows = np.nonzero(counted)[0]
    behind = made["mask_positions"][counted] + 1
    assert np.array_equal(batch["tokens"][rows, behind], made["mask_labels"][counted])


def test_its_loss_is_that_of_whole_logits_seen_from_both_sides(batch):
    objective = MaskedNextToken(rate=0.3, slots=T, chunk=24)
    made = corrupted(batch, objective)
    model = Model(tiny.gpt2(max_positions=T), objective.heads)
    params = tiny.random_params(model)

    @jax.jit
    def both(batch):
        outputs = objective.forward(model, params, batch, None)
        logits = model.head(params, "causal_lm", outputs["hidden"])
        return objective.sums(model, params, outputs, batch), jax.nn.log_softmax(logits)

    found, log_p = jax.device_get(both(made))
    total = 0.0
    for i in range(len(log_p)):
        for place, label, weight in zip(
            made["mask_positions"][i], made["mask_labels"][i], made["mask_weights"][i]
        ):
            total -= weight * log_p[i, place, label]
    assert found.losses["masked_next_token"] == pytest.approx(total, rel=1e-5)
    row = tiny.rows([tiny.random_documents([20], seed=1)])
    other = {**row, "tokens": np.where(np.arange(20) == 15, 7, row["tokens"])}
    assert row["tokens"][0, 15] != 7
    states = [objective.forward(model, params, x, None)["hidden"][0, 3] for x in (row, other)]
    assert np.abs(states[0] - states[1]).max() > 1e-6, "it sees what follows"


# --- Masked diffusion ---------------------------------------------------------------------------


def test_with_exact_guesses_the_bound_is_the_log_likelihood():
    """Of a Markov chain over three tokens, by its exact posteriors: over all sets of masked tokens
    of a text of L, those of size k weighted by 1 / (k C(L, k)), the cross entropies add up to
    -log p(text). A rate that is uniform gives a set of k this weight."""
    L, count, words = 4, 40_000, tiny.FIRST_WORD + np.arange(3)
    first = np.array([0.5, 0.3, 0.2])
    step = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.5, 0.1, 0.4]])
    texts = np.array([*itertools.product(range(3), repeat=L)])
    p = first[texts[:, 0]] * np.prod([step[texts[:, i], texts[:, i + 1]] for i in range(3)], axis=0)
    x = np.array([0, 2, 1, 1])

    def nats(masked):
        """Of each token, given those that are not masked."""
        fits = (texts == x)[:, ~masked].all(axis=1)
        right = [p[fits & (texts[:, i] == x[i])].sum() for i in range(L)]
        return -np.log(np.array(right) / p[fits].sum())

    exact = -np.log(p[(texts == x).all(axis=1)].item())
    sets = [np.array(m, bool) for m in itertools.product((0, 1), repeat=L) if any(m)]
    weights = [1 / (m.sum() * math.comb(L, m.sum())) for m in sets]
    assert sum(w * nats(m)[m].sum() for w, m in zip(weights, sets)) == pytest.approx(exact)

    objective = MaskedDiffusion()
    made = corrupted(tiny.rows([[words[x]]] * count), objective)
    table = {tuple(m): nats(m) for m in sets}
    masked = made["tokens"] == tiny.SPECIALS["mask"]
    each = np.array([table.get(tuple(m), np.zeros(L)) for m in masked])
    others = np.log(-np.expm1(-np.maximum(each, 1e-9)))
    logits = np.full((count, L, tiny.VOCAB), -1e9, np.float32)
    logits[:, np.arange(L), words[x]], logits[..., -1] = -each, others  # the last is no word of it
    same = lambda params, name: params
    model = SimpleNamespace(head=lambda params, name, x: x, head_params=same, head_axes=same)
    found = objective.sums(model, {}, {"hidden": logits}, made)  # type: ignore[arg-type]
    bound = float(found.losses["masked_diffusion"]) / count
    spread = np.std(np.sum(made["diffusion_weights"] * each, axis=1)) / np.sqrt(count)
    assert spread < 0.05 and bound == pytest.approx(exact, abs=4 * spread)


def test_rates_are_spread_evenly_over_any_stretch_of_examples():
    objective = MaskedDiffusion()
    for start in (0, 12_345):
        ids = np.stack([np.zeros(100), np.arange(start, start + 100)], axis=1).astype(np.uint32)
        rates = objective.rates({"epoch": np.zeros(100, np.int32), "example_id": ids}, 3)
        gaps = np.diff(np.sort(np.asarray(rates)))
        assert 0.001 <= rates.min() and rates.max() <= 1 and gaps.max() < 0.03
    later = objective.rates({"epoch": np.ones(100, np.int32), "example_id": ids}, 3)
    assert not np.allclose(later, rates)


def test_a_uniform_guess_costs_the_entropy_of_the_vocabulary():
    """The bound of a model that knows nothing is ln V, in the mean over masks."""
    batch = long_batch(6000, T)
    made = corrupted(batch, MaskedDiffusion())
    mean = made["diffusion_weights"].sum() / made["diffusion_text"].sum()
    assert mean == pytest.approx(1.0, abs=0.02)
    masked = made["tokens"] == tiny.SPECIALS["mask"]
    rates = np.asarray(MaskedDiffusion().rates(batch, 7))
    assert masked.mean(axis=1) == pytest.approx(rates, abs=0.3)
    assert np.corrcoef(masked.mean(axis=1), rates)[0, 1] > 0.95
    weights = made["diffusion_weights"]
    assert weights[masked] == pytest.approx((1 / rates)[np.nonzero(masked)[0]], rel=1e-5)
    assert not weights[~masked].any()


def test_no_special_token_and_no_padding_is_diffused(batch):
    made = corrupted(batch, MaskedDiffusion())
    special = batch["tokens"] < tiny.FIRST_WORD
    assert np.array_equal(made["tokens"][special], batch["tokens"][special])
    assert not made["diffusion_text"][special | (batch["segment_ids"] == 0)].any()


def test_the_loss_of_diffusion_is_that_of_whole_logits(batch):
    objective = MaskedDiffusion(chunk=24)
    made = corrupted(batch, objective)
    model = Model(tiny.bert(max_positions=T, pooler=False), objective.heads)
    params = tiny.random_params(model)

    @jax.jit
    def both(batch):
        outputs = objective.forward(model, params, batch, None)
        logits = model.head(params, "masked_lm", outputs["hidden"])
        return objective.sums(model, params, outputs, batch), jax.nn.log_softmax(logits)

    found, log_p = jax.device_get(both(made))
    nll = -np.take_along_axis(log_p, batch["tokens"][..., None], axis=-1)[..., 0]
    total = (nll * made["diffusion_weights"]).sum()
    assert found.losses["masked_diffusion"] == pytest.approx(total, rel=1e-5)
    assert objective.weights(made)["masked_diffusion"] == made["diffusion_text"].sum()


@pytest.mark.parametrize("kind", [MaskedDiffusion, MaskedLm])
def test_what_fills_masks_needs_a_mask_and_both_sides(kind):
    with pytest.raises(UserError, match="causal"):
        kind().check(tiny.gpt2(), tiny.WORDS)
    MaskedNextToken().check(tiny.gpt2(), tiny.WORDS)
    PrefixLm().check(tiny.bert(), tiny.WORDS)
