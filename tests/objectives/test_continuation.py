"""Texts that are cut in two: where, and that both sides together are the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import packed_batch
from two_sides import END, made_of, rows, texts

from jaxssl.core.errors import UserError
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.continuation import Continuation


def sides(made, i):
    """{text: (what is read, what is written)} of a row."""
    read = texts(made["tokens"][i], made["segment_ids"][i])
    written = texts(made["targets"][i], made["targets_segment_ids"][i])
    return {number: (read[number], written.get(number, [])) for number in read}


def test_a_row_is_cut_once_and_both_sides_end():
    batch = rows(64, 128)
    objective = Continuation(joined=True)
    assert objective.raw_length(128) == 128
    made = made_of(batch, objective)
    assert made["tokens"].shape == made["targets"].shape == (64, 128)
    for i, raw in enumerate(batch["tokens"].tolist()):
        ((read, written),) = sides(made, i).values()
        assert read[-1] == written[-1] == END
        assert len(read) > 1 and len(written) > 1
        assert read[:-1] + written[:-1] == raw
        assert made["positions"][i][: len(read)].tolist() == list(range(len(read)))


def test_every_place_of_the_cut_is_as_likely():
    """Six tokens: five places."""
    made = made_of(rows(5000, 6), Continuation(joined=True))
    counts = np.bincount((made["targets_segment_ids"] > 0).sum(1) - 1, minlength=6)
    assert counts[0] == 0 and len(counts) == 6
    assert ((counts[1:] - 1000) ** 2 / 1000).sum() < 18.5  # chi squared, 4 degrees, p = 0.001


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("length", [8, 64, 512])
def test_a_share_fills_the_longer_side(share, length):
    objective = Continuation(target_share=share, joined=True)
    raw = objective.raw_length(length)
    assert max(objective.lengths(raw)) == length < max(objective.lengths(raw + 2))
    made = made_of(rows(4, raw), objective)
    assert (made["segment_ids"] > 0).all() and (made["targets_segment_ids"] > 0).all()
    assert made["targets"].shape[1] == round(raw * share) + 1


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    share=st.sampled_from([None, 0.05, 0.25, 0.5, 0.95]),
    seed=st.integers(0, 1000),
)
def test_documents_apart_are_cut_by_themselves(lengths, share, seed):
    R = 256
    segments = np.zeros(R, np.int32)
    segments[: sum(lengths)] = np.repeat(np.arange(len(lengths)) + 1, lengths)
    rng = np.random.default_rng(seed)
    batch = {**rows(1, R), "segment_ids": segments[None]}
    batch["tokens"] = np.where(segments > 0, rng.integers(8, 36, R), 0)[None].astype(np.int32)
    objective = Continuation(target_share=share)
    assert objective.raw_length(R) == R
    made = made_of(batch, objective, seed)
    before = texts(batch["tokens"][0], segments)
    for number, (read, written) in sides(made, 0).items():
        n = len(before[number])
        if n == 1:
            assert (read, written) == (before[number], [])
            continue
        assert read[-1] == written[-1] == END
        assert read[:-1] + written[:-1] == before[number]
        if share is not None:
            assert len(written) - 1 == min(max(round(n * share), 1), n - 1)
    assert sides(made, 0).keys() == before.keys()


def test_a_text_that_ends_already_gets_no_second_end():
    batch = packed_batch(count=24, seed=2)
    whole, cut = 0, 0
    for i in range(24):
        for number in texts(batch["tokens"][i], batch["segment_ids"][i]):
            if number % 2:
                last = np.flatnonzero(batch["segment_ids"][i] == number)[-1]
                batch["tokens"][i, last] = END
    made = made_of(batch, Continuation())
    for i in range(24):
        before = texts(batch["tokens"][i], batch["segment_ids"][i])
        for number, (read, written) in sides(made, i).items():
            text = before[number]
            if len(text) == 1:
                continue
            has_end = text[-1] == END
            whole, cut = whole + has_end, cut + (not has_end)
            assert read[:-1] + written == (text if has_end else [*text, END])
    assert whole and cut


def test_cuts_go_by_seed_epoch_and_example_alone():
    batch = rows(8, 64)  # documents of 41 and 23 tokens
    whole = made_of(batch, Continuation())
    some = made_of({name: x[3:5] for name, x in batch.items()}, Continuation())
    assert np.array_equal(whole["targets"][3:5], some["targets"])
    later = made_of({**batch, "epoch": batch["epoch"] + 1}, Continuation())
    assert not np.array_equal(later["targets"], whole["targets"])


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="target_share"):
        Continuation(target_share=1.5)
    with pytest.raises(UserError, match="cannot be cut in two"):
        Continuation(joined=True).raw_length(1)
    with pytest.raises(UserError, match="one stack") as error:
        Continuation().check(T5Config(part="encoder"), None)  # pyright: ignore[reportArgumentType]
    assert "model.part=both" in str(error.value)
