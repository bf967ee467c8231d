"""Spans, n-grams, rounding and rates that move: against formulas and the references' counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from masks import MASK, PIECES, corrupt, corrupted, long_batch, packed_batch, words_of
from scipy.stats import chisquare

from jaxssl.core.ramp import Ramp
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masking.ngrams import NGrams
from jaxssl.objectives.masking.spans import Spans
from jaxssl.objectives.masking.units import Row, WholeWords


def runs(chosen):
    """The lengths of the runs of True in each row of bool [B, T]."""
    edges = np.diff(np.pad(chosen, [(0, 0), (1, 1)]).astype(int), axis=1)
    return np.flatnonzero(edges.ravel() < 0) - np.flatnonzero(edges.ravel() > 0)


def chosen_of(out, length):
    """bool [B, T]."""
    chosen = np.zeros((len(out["mask_positions"]), length), bool)
    for row, positions, weights in zip(chosen, out["mask_positions"], out["mask_weights"]):
        row[positions[weights > 0]] = True
    return chosen


# --- Spans --------------------------------------------------------------------------------------


@functools.cache
def spans_of_510():
    """SpanBERT's rows of 510 words of one piece."""
    objective = MaskedLm(units=Spans(), rounding="up", slots=77)
    return chosen_of(corrupted(long_batch(400, 510), objective), 510)


def test_spans_fill_the_count_exactly():
    assert (spans_of_510().sum(axis=1) == 77).all(), "ceil(0.15 * 510)"


def test_spans_that_touch_are_one_as_in_spanbert():
    """19.5 merged spans a row, of 3.94 words: run of the reference algorithm in NumPy."""
    lengths = runs(spans_of_510())
    assert len(lengths) / 400 == pytest.approx(19.5, abs=0.25)
    assert lengths.mean() == pytest.approx(3.94, abs=0.05)


def test_the_lengths_of_spans_are_geometric_and_cut_at_ten():
    assert Spans().shares[:3] == pytest.approx([0.2241, 0.1792, 0.1434], abs=1e-4)
    assert Spans().shares @ np.arange(1, 11) == pytest.approx(3.797, abs=1e-3)
    one = MaskedLm(units=Spans(), rate=0.05, max_predictions=10, slots=10)
    first = runs(chosen_of(corrupted(long_batch(3000, 200), one), 200))
    assert len(first) > 3000 and first.max() <= 20


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_spans_are_whole_words_but_for_one_that_is_cut_in_each_document(rate):
    batch = packed_batch(count=24, seed=5)
    out = corrupted(batch, MaskedLm(units=Spans(), rate=rate, slots=64), PIECES)
    cut = 0
    for i, chosen in enumerate(chosen_of(out, 64)):
        by_document = {}
        for document, word in words_of(batch["tokens"][i], batch["segment_ids"][i]):
            part = chosen[word].sum()
            by_document[document] = by_document.get(document, 0) + (0 < part < len(word))
        cut += sum(by_document.values())
        # A word that was cut at its end may be cut again by nothing: its document was full.
        assert all(count <= 1 for count in by_document.values())
    assert cut > 0


# --- N-grams ------------------------------------------------------------------------------------


def test_ngrams_have_alberts_count_and_shares():
    """509 one-piece words: always 77, n-gram shares .569, .268, .163 (run of the reference)."""
    objective = MaskedLm(units=NGrams(), max_predictions=77, rate=0.15, slots=77)
    batch = long_batch(200, 512)
    batch["tokens"][:, 0], batch["tokens"][:, [255, 511]] = 2, 3
    out = corrupted(batch, objective)
    assert (out["mask_weights"].sum(axis=1) == 77).all()
    counts = np.zeros(3)
    for n in drawn_ngrams(batch):
        counts[n - 1] += 1
    assert counts / counts.sum() == pytest.approx([0.569, 0.268, 0.163], abs=0.015)


def drawn_ngrams(batch):
    """The n of each n-gram, from the units' own beginnings."""

    @jax.jit
    @jax.vmap
    def choose(key, tokens, segments):
        quota = jnp.full(513, 77, jnp.int32)
        return NGrams().choose(key, Row(segments, tokens > 4, jnp.ones(512, bool), quota))

    keys = jax.random.split(jax.random.key(3), len(batch["tokens"]))
    chosen = jax.device_get(choose(keys, batch["tokens"], batch["segment_ids"]))
    for tokens, begins in zip(chosen.tokens, chosen.begins):
        starts = np.flatnonzero(begins)
        assert tokens.sum() == 77 and set(starts) <= set(np.flatnonzero(tokens))
        for start, following in zip(starts, [*starts[1:], 512]):
            inside = tokens[start:following]
            yield len(inside) if inside.all() else int(np.argmin(inside))


def test_ngrams_are_whole_words_and_never_more_than_the_count():
    batch = packed_batch(count=24, seed=6)
    objective = MaskedLm(units=NGrams(), rate=0.4, slots=64)
    out = corrupted(batch, objective, PIECES)
    single = corrupted(batch, MaskedLm(rate=0.4, slots=64), PIECES)
    assert (out["mask_weights"].sum(axis=1) <= single["mask_weights"].sum(axis=1)).all()
    longer = 0
    for i, chosen in enumerate(chosen_of(out, 64)):
        words = words_of(batch["tokens"][i], batch["segment_ids"][i])
        taken = [all(chosen[word]) for _, word in words]
        assert all(any(chosen[word]) == all(chosen[word]) for _, word in words)
        longer += sum(a and b for a, b in zip(taken, taken[1:]))
    assert longer > 20


# --- Together or apart --------------------------------------------------------------------------


def test_what_is_replaced_together_is():
    batch = packed_batch(count=32, seed=7)
    shares = dict(mask_share=0.5, random_share=0.0, slots=64, rate=0.4)
    kinds = {}
    for together in (True, False):
        objective = MaskedLm(units=WholeWords(), replaces_units=together, **shares)
        out = corrupted(batch, objective, PIECES)
        masked = out["tokens"] == MASK
        kinds[together] = {
            tuple(masked[i][word])
            for i, chosen in enumerate(chosen_of(out, 64))
            for _, word in words_of(batch["tokens"][i], batch["segment_ids"][i])
            if chosen[word].all() and len(word) > 1
        }
    assert {len(set(kind)) for kind in kinds[True]} == {1} < {len(set(k)) for k in kinds[False]}
    assert {kind[0] for kind in kinds[True]} == {True, False}


# --- How many -----------------------------------------------------------------------------------


def test_rounding_at_random_has_the_exact_mean_and_two_values():
    """RoBERTa: int(0.15 * 50 + U) is 7 or 8, each as often."""
    out = corrupted(long_batch(4000, 50), MaskedLm(rounding="random", slots=8))
    counts = np.bincount(out["mask_weights"].sum(axis=1).astype(int), minlength=9)
    assert counts[7] + counts[8] == 4000 and chisquare(counts[7:9]).pvalue > 1e-3


def test_special_tokens_count_or_do_not():
    batch = tiny.rows([[np.array([2, *[9] * 18, 3], np.int32)]])  # 18 words, 20 tokens
    count = lambda **how: int(corrupted(batch, MaskedLm(slots=8, **how))["mask_weights"].sum())
    assert count(rounding="up") == 3 == count(rounding="up", counts_specials=False)
    assert count(rate=0.31, rounding="up") == 7
    assert count(rate=0.31, rounding="up", counts_specials=False) == 6


MOVING = MaskedLm(rate=Ramp(points=((0, 0.3), (100, 0.15))), slots=64)


def test_a_rate_that_moves_ends_where_validation_is():
    batch = packed_batch()
    want = {rate: corrupted(batch, MaskedLm(rate=rate, slots=64)) for rate in (0.3, 0.15)}
    at = lambda step: corrupted({**batch, "step": np.full(16, step, np.int32)}, MOVING)
    for made, rate in (
        (at(0), 0.3),
        (at(100), 0.15),
        (at(500), 0.15),
        (corrupted(batch, MOVING), 0.15),
    ):
        assert np.array_equal(made["mask_positions"], want[rate]["mask_positions"])
    half = at(50)["mask_weights"].sum()
    assert want[0.15]["mask_weights"].sum() < half < want[0.3]["mask_weights"].sum()


def test_a_rate_that_moves_has_room_for_the_largest():
    rows = {name: np.zeros((1, 128), np.int32) for name in ("tokens", "token_types")}
    assert MaskedLm(rate=MOVING.rate).num_slots(rows) == 38
    batch = {**long_batch(4, 64), "step": np.zeros(4, np.int32)}
    assert corrupt(batch, MaskedLm(rate=MOVING.rate))["mask_weights"].sum() == 4 * 19


@pytest.mark.parametrize("rate", [Ramp(points=((0, 0.3), (10, 1.0))), Ramp(points=((0, 0.0),))])
def test_a_rate_that_moves_out_of_range_is_refused(rate):
    with pytest.raises(Exception, match="masking rate"):
        MaskedLm(rate=rate)


@pytest.mark.parametrize("bad", [{"stop": 0.0}, {"stop": 1.0}, {"longest": 0}])
def test_impossible_spans_are_refused(bad):
    with pytest.raises(Exception, match="out of range|probability"):
        Spans(**bad)
