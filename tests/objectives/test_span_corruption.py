"""Span corruption: its counts, as T5's, and that both sides together are the text again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import packed_batch
from two_sides import END, IDS, WORDS, inverted, made_of, rows, texts

from jaxssl.core.errors import UserError
from jaxssl.objectives.span_corruption import SpanCorruption
from jaxssl.ops.span_noise import SpanCounts, random_spans


@pytest.mark.parametrize(
    ("rate", "mean", "length", "expected"),
    # raw, inputs, targets, as the notes of T5's own helper have them
    [
        (0.15, 3.0, 512, (568, 512, 114)),
        (0.15, 3.0, 64, (70, 64, 14)),
        (0.15, 3.0, 128, (141, 128, 29)),
        (0.15, 3.0, 1024, (1137, 1024, 229)),
        (0.15, 8.0, 512, (588, 512, 100)),
        (0.5, 3.0, 64, (94, 64, 64)),
        (0.15, 64.0, 512, (600, 512, 92)),
    ],
)
def test_rows_have_the_lengths_of_t5(rate, mean, length, expected):
    objective = SpanCorruption(rate=rate, mean_span=mean)
    raw = objective.raw_length(length)
    inputs, targets = objective.lengths(raw)
    assert inputs == length
    if rate != 0.5:
        assert (raw, inputs, targets) == expected
    else:  # there one token less is taken, so that targets are no longer than inputs
        assert abs(raw - expected[0]) <= 1 and abs(targets - expected[2]) <= 1


def test_a_row_of_568_tokens_has_85_noisy_ones_in_28_spans_every_time():
    made = made_of(rows(64, 568), SpanCorruption())
    assert made["tokens"].shape == (64, 512) and made["targets"].shape == (64, 114)
    assert (made["segment_ids"] == 1).all() and (made["targets_segment_ids"] == 1).all()
    sentinels = np.isin(made["targets"], list(IDS))
    assert (sentinels.sum(1) == 28).all()
    assert ((~sentinels & (made["targets"] != END)).sum(1) <= 85).all()
    assert (made["targets"][:, -1] == END).all() and (made["tokens"][:, -1] == END).all()
    assert (np.isin(made["tokens"], list(IDS)).sum(1) == 28).all()
    assert (made["positions"] == np.arange(512)).all()
    assert (made["targets_positions"] == np.arange(114)).all()


def test_both_sides_of_a_row_are_its_text_again():
    batch = rows(32, 141, seed=1)
    made = made_of(batch, SpanCorruption())
    for raw, inputs, targets in zip(batch["tokens"], made["tokens"], made["targets"]):
        assert inverted(inputs[:-1].tolist(), targets.tolist()) == raw.tolist()


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_documents_apart_have_their_own_counts_and_nothing_crosses(rate):
    objective, batch = SpanCorruption(joined=False, rate=rate), packed_batch(count=24, seed=2)
    batch["tokens"] = np.minimum(batch["tokens"], 36)
    raw = batch["tokens"].shape[1]
    assert objective.raw_length(raw) == raw
    made, counts = made_of(batch, objective), SpanCounts(rate, 3.0)
    for i in range(24):
        before = texts(batch["tokens"][i], batch["segment_ids"][i])
        inputs = texts(made["tokens"][i], made["segment_ids"][i])
        targets = texts(made["targets"][i], made["targets_segment_ids"][i])
        for number, text in before.items():
            written = targets.get(number, [])
            assert inverted(inputs[number], written) == text
            noisy = sum(token not in IDS for token in written[:-1])
            has_noise = np.round(len(text) * rate) > 0
            assert noisy == (counts.noise(np.array([len(text)]))[0] if has_noise else 0)
            for side in ("", "targets_"):
                segments = made[f"{side}segment_ids"][i]
                inside = np.flatnonzero(segments == number)
                positions = made[f"{side}positions"][i][inside]
                assert positions.tolist() == list(range(len(inside)))
                assert (np.diff(inside) == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    rate=st.sampled_from([0.05, 0.15, 0.3, 0.5, 0.8]),
    mean=st.sampled_from([1.0, 2.5, 3.0, 8.0]),
    seed=st.integers(0, 1000),
)
def test_each_text_has_as_many_noisy_tokens_and_spans_as_the_formula_says(
    lengths, rate, mean, seed
):
    R, counts = 256, SpanCounts(rate, mean)
    documents = np.zeros(R, np.int32)
    documents[: sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    n = np.arange(R + 1)
    numbers = np.bincount(documents, minlength=R + 1)[: R + 1] * (n > 0)
    found = random_spans(
        jax.random.key(seed),
        jnp.array(documents),
        jnp.array(counts.noise(numbers)),
        jnp.array(counts.spans(numbers)),
    )
    noisy, at = np.asarray(found.noisy), 0
    assert not noisy[sum(lengths) :].any()
    for length in lengths:
        part, number = noisy[at : at + length], np.asarray(found.number)[at : at + length]
        starts = part & ~np.pad(part, (1, 0))[:-1]
        assert part.sum() == counts.noise(np.array([length]))[0]
        assert starts.sum() == counts.spans(np.array([length]))[0]
        assert (number[part] == (np.cumsum(starts) - 1)[part]).all()
        assert not part.any() or (part[-1] and not part[0])
        at += length


def test_every_way_of_cutting_is_as_likely():
    """8 tokens, 4 of noise in 2 spans: 3 x 3 ways."""
    counts = SpanCounts(0.5, 2.0)
    lengths = np.array([0, 8, *[0] * 7])  # one document
    found = [jnp.array(x) for x in (counts.noise(lengths), counts.spans(lengths))]
    draw = jax.vmap(lambda key: random_spans(key, jnp.ones(8, jnp.int32), *found).noisy)
    noisy = np.asarray(draw(jax.random.split(jax.random.key(1), 9000)))
    ways, counted = np.unique(noisy, axis=0, return_counts=True)
    assert len(ways) == 9
    assert ((counted - 1000) ** 2 / 1000).sum() < 26.1  # chi squared, 8 degrees, p = 0.001


def test_masks_go_by_seed_epoch_and_example_alone():
    batch = rows(8, 141)
    whole = made_of(batch, SpanCorruption())
    some = made_of({name: x[3:5] for name, x in batch.items()}, SpanCorruption())
    for name in ("tokens", "targets"):
        assert np.array_equal(whole[name][3:5], some[name])
    later = made_of({**batch, "epoch": batch["epoch"] + 1}, SpanCorruption())
    assert not np.array_equal(later["tokens"], whole["tokens"])


def test_too_few_sentinels_are_refused_with_what_is_needed():
    few = dataclasses.replace(WORDS, special_tokens={"<extra_id_0>": 37, "<extra_id_1>": 36})
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda batch: SpanCorruption().corrupt(batch, 0, few), rows(2, 568))
    assert "at least 28" in str(error.value) and "sentinels=100" in str(error.value)


@pytest.mark.parametrize("rate", [0.0, 1.0, 0.9])
def test_rates_that_leave_nothing_are_refused(rate):
    with pytest.raises(UserError):
        SpanCorruption(rate=rate).raw_length(64)
