"""Marked spans: masked all or nothing, by the share that was asked for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from masks import PIECES, STARTS, corrupted, long_batch, packed_batch

from jaxssl.core.errors import UserError
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masking.marked import Marked
from jaxssl.objectives.masking.units import Row


def marked(batch, seed=0, share=0.3, longest=4, start_inside=True):
    """The batch with random spans in the texts; some rows begin inside of one."""
    rng = np.random.default_rng(seed)
    tokens, segments = batch["tokens"], batch["segment_ids"]
    marks = np.zeros(tokens.shape, np.uint8)
    text = (segments > 0) & (tokens >= tiny.FIRST_WORD)
    for row in range(len(tokens)):
        t = 0
        while t < tokens.shape[1]:
            length = int(rng.integers(1, longest + 1))
            here = slice(t, t + length)
            whole = text[row, here].all() and len(set(segments[row, here])) == 1
            if whole and rng.random() < share:
                marks[row, here] = 2
                marks[row, t] = 1
                t += length
            else:
                t += 1
        if start_inside and row % 2 and marks[row, 0] == 1:
            marks[row, 0] = 2
    return {**batch, "marks": marks}


def units_of(tokens, segments, marks):
    """[(document, positions, whether it is a marked span)] of a row, in plain Python."""
    units, previous = [], None  # previous: (document, mark) of the token before, if it is text
    for t, (token, segment, mark) in enumerate(zip(tokens, segments, marks)):
        if segment == 0 or token < tiny.FIRST_WORD:
            previous = None
            continue
        follows = previous is not None and previous[0] == segment
        inside = follows and previous[1] > 0
        new = (mark == 1 or not inside) if mark else (STARTS[token] or inside or not follows)
        if new or not follows:
            units.append((int(segment), [], bool(mark)))
        units[-1][1].append(t)
        previous = segment, mark
    return units


def chosen_of(out, length):
    chosen = np.zeros((len(out["mask_positions"]), length), bool)
    for row, positions, weights in zip(chosen, out["mask_positions"], out["mask_weights"]):
        row[positions[weights > 0]] = True
    return chosen


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, None])
def test_spans_and_words_are_masked_all_or_nothing_and_special_tokens_never(share):
    batch = marked(packed_batch(count=32, seed=3), seed=1)
    out = corrupted(batch, MaskedLm(units=Marked(share=share), rate=0.4, slots=64), PIECES)
    limit = corrupted(batch, MaskedLm(rate=0.4, slots=64), PIECES)
    longer = 0
    for i, chosen in enumerate(chosen_of(out, 64)):
        units = units_of(batch["tokens"][i], batch["segment_ids"][i], batch["marks"][i])
        for _, places, is_span in units:
            assert chosen[places].all() or not chosen[places].any()
            longer += is_span and len(places) > 1 and chosen[places].all()
        text = np.zeros(64, bool)
        text[[t for _, places, _ in units for t in places]] = True
        assert not (chosen & ~text).any(), "neither special tokens nor padding"
        for document in np.unique(batch["segment_ids"][i]):
            inside = batch["segment_ids"][i] == document
            most = chosen_of(limit, 64)[i][inside].sum()
            assert chosen[inside].sum() <= most
    assert longer > 5


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_the_share_of_marked_tokens_is_exact_in_the_mean(share):
    """Two documents a row, with plenty of spans (of 1 to 4 tokens) and of words: in each the mean
    is share times count."""
    batch = long_batch(300, 256)
    batch["segment_ids"][:, 128:] = 2
    batch = marked(batch, seed=2, share=0.35)
    out = corrupted(batch, MaskedLm(units=Marked(share=share), slots=38))
    chosen = chosen_of(out, 256).reshape(600, 128)
    assert (chosen.sum(axis=1) == 19).all(), "round(128 * 0.15)"
    of_spans = (chosen & (batch["marks"].reshape(600, 128) > 0)).sum(axis=1)
    assert abs(of_spans[::2].mean() - of_spans[1::2].mean()) < 0.5
    error = of_spans.std() / np.sqrt(len(of_spans))
    assert abs(of_spans.mean() - 19 * share) < 4 * error
    assert error < 0.06
    assert of_spans.min() >= np.floor(19 * share) - 3
    assert of_spans.max() <= np.ceil(19 * share) + 3


def test_without_a_share_spans_are_as_likely_as_words():
    """ERNIE's units: of words of one token and spans of two, each is taken as often."""
    batch = long_batch(800, 96)
    marks = np.tile(np.array([1, 2, 0, 0], np.uint8), (800, 24))
    out = corrupted({**batch, "marks": marks}, MaskedLm(units=Marked(share=None), slots=14))
    chosen = chosen_of(out, 96)
    rates = chosen.mean(axis=0).reshape(24, 4).mean(axis=0)
    assert rates == pytest.approx(14 / 96, abs=0.01)


def test_where_there_are_too_few_of_one_kind_the_other_fills_the_count():
    batch = long_batch(64, 64)
    objective = MaskedLm(units=Marked(share=0.5), rate=0.25, slots=16)
    nothing = np.zeros((64, 64), np.uint8)
    everything = np.tile(np.array([1, 2], np.uint8), (64, 32))
    one = nothing.copy()
    one[:, 10:13] = 1, 2, 2
    for marks in (nothing, everything, one):
        out = corrupted({**batch, "marks": marks}, objective)
        assert (out["mask_weights"].sum(axis=1) == 16).all()


def test_a_preferred_span_is_masked_with_the_probability_of_the_share():
    """One span of three tokens, of which 0.5 * 4 may be masked: two times in three."""
    batch = long_batch(1500, 27)
    marks = np.zeros((1500, 27), np.uint8)
    marks[:, 5:8] = 1, 2, 2
    out = corrupted({**batch, "marks": marks}, MaskedLm(units=Marked(share=0.5), slots=4))
    rate = chosen_of(out, 27)[:, 5].mean()
    # Left out, the span may still be taken behind the words, which always fill the count here.
    assert rate == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / 1500))


def test_units_begin_where_they_say():
    batch = marked(packed_batch(count=8, seed=9), seed=4)
    tokens, segments = jnp.asarray(batch["tokens"]), jnp.asarray(batch["segment_ids"])

    @jax.jit
    @jax.vmap
    def choose(key, tokens, segments, marks):
        text = (segments > 0) & (tokens >= tiny.FIRST_WORD)
        starts = jnp.asarray(STARTS)[tokens]
        return Marked().choose(key, Row(segments, text, starts, jnp.full(65, 64), marks))

    found = choose(jax.random.split(jax.random.key(0), 8), tokens, segments, batch["marks"])
    for i in range(8):
        units = units_of(batch["tokens"][i], batch["segment_ids"][i], batch["marks"][i])
        firsts = [places[0] for _, places, _ in units]
        assert np.flatnonzero(found.begins[i]).tolist() == firsts, "all are chosen"


def test_masks_depend_on_the_example_alone():
    batch = marked(packed_batch(count=8, seed=5), seed=6)
    objective = MaskedLm(units=Marked(), rate=0.3, slots=32)
    whole = corrupted(batch, objective, PIECES)
    part = corrupted({name: x[3:6] for name, x in batch.items()}, objective, PIECES)
    for name, values in part.items():
        assert np.array_equal(values, whole[name][3:6]), name


def test_a_share_out_of_range_and_rows_without_marks_are_refused():
    with pytest.raises(UserError, match="share of marked spans is out of range"):
        Marked(share=1.5)
    with pytest.raises(UserError, match="tables have no marked spans"):
        MaskedLm(units=Marked()).check_rows(long_batch(2, 16))
    assert not MaskedLm().reads_marks
    assert dataclasses.replace(MaskedLm(), units=Marked()).reads_marks
