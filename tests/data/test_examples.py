"""Labelled examples as batches: each once an epoch, on any number of hosts, with little padding."""

import dataclasses
import itertools

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.encoding import encode_rows
from jaxssl.data.examples import (
    ExampleData,
    Examples,
    box_of,
    boxes,
    fixed_lengths,
    row_lengths,
)

PAD = 9


def examples(lengths, seed=0):
    lengths = np.asarray(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(starts[-1], dtype=np.int32)  # a token says which row it is of
    second = lengths // 2
    labels = np.arange(len(lengths), dtype=np.int32)
    return Examples(
        tokens=tokens,
        starts=starts,
        second=second,
        pad_id=PAD,
        per_row={"labels": labels},
        per_token={"tags": (tokens % 7, -100)},
    )


def data_of(lengths, count=3):
    return ExampleData(
        examples(lengths), row_lengths(lengths, count)[:, None], np.arange(len(lengths))
    )


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 4))
def test_no_other_lengths_waste_less(lengths, count):
    chosen = row_lengths(lengths, count, multiple=4)
    rounded = [-(-length // 4) * 4 for length in lengths]
    edges = sorted(set(rounded))

    def padded(some):
        return sum(min(e for e in some if e >= length) for length in rounded)

    best = min(
        padded((*some, edges[-1]))
        for size in range(count)
        for some in itertools.combinations(edges[:-1], size)
    )
    assert padded(chosen.tolist()) == best and len(chosen) <= count


@pytest.mark.parametrize("longest", [1, 24, 100, 128, 512, 1000])
def test_fixed_lengths_are_few_and_waste_little(longest):
    lengths = fixed_lengths(longest)
    assert longest <= lengths[-1] < longest + 8 and not (lengths % 8).any()
    assert len(lengths) <= 14
    for length in range(17, longest + 1):
        assert lengths[np.searchsorted(lengths, length)] < 1.5 * length


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_has_every_example_once_and_resumes_anywhere(lengths, batch_size, seed):
    data = data_of(lengths)
    batches = data.train_batches(batch_size, seed, np.arange(batch_size))
    assert batches.per_epoch == -(-len(lengths) // batch_size)
    for epoch in range(2):
        first = epoch * batches.per_epoch
        rows = [batches[first + i] for i in range(batches.per_epoch)]
        real = np.concatenate([b["example_weights"] for b in rows]) > 0
        labels = np.concatenate([b["labels"] for b in rows])[real]
        assert sorted(labels.tolist()) == list(range(len(lengths)))
        assert {b["tokens"].shape[0] for b in rows} == {batch_size}
    again = data.train_batches(batch_size, seed, np.arange(batch_size))
    for step in (2 * batches.per_epoch - 1, 0, batches.per_epoch):
        for name, values in batches[step].items():
            np.testing.assert_array_equal(again[step][name], values)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches(hosts):
    data = data_of(np.random.default_rng(0).integers(1, 40, 37))
    whole = data.train_batches(8, 3, np.arange(8))
    parts = [data.train_batches(8, 3, p) for p in np.array_split(np.arange(8), hosts)]
    for step in range(7):
        for name, values in whole[step].items():
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, values)


def test_a_row_holds_its_tokens_and_padding():
    batch = examples([3, 5]).rows(np.array([1, -1, 0]), 8, epoch=2)
    assert batch["tokens"].tolist() == [
        [3, 4, 5, 6, 7, PAD, PAD, PAD],
        [PAD] * 8,
        [0, 1, 2, PAD, PAD, PAD, PAD, PAD],
    ]
    assert batch["segment_ids"][0].tolist() == [1] * 5 + [0] * 3
    assert batch["positions"][0].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
    assert batch["token_types"][0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert batch["tags"][0].tolist() == [3, 4, 5, 6, 0, -100, -100, -100]
    assert batch["example_weights"].tolist() == [1, 0, 1]
    assert batch["labels"][[0, 2]].tolist() == [1, 0]
    assert batch["epoch"].tolist() == [2, 2, 2]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 9))
def test_evaluation_sees_every_example_once(lengths, batch_size):
    data = data_of(lengths)
    rows = list(data.eval_batches(batch_size, np.arange(batch_size)))
    real = np.concatenate([b["example_weights"] for b in rows]) > 0
    ids = np.concatenate([b["example_id"][:, 1] for b in rows])[real]
    assert sorted(ids.tolist()) == list(range(len(lengths)))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 9))
def test_where_it_is_filled_up_each_batch_has_as_many_different_examples(lengths, batch_size):
    data = data_of(lengths)
    for batch in data.eval_batches(batch_size, np.arange(batch_size), fill=True):
        ids = batch["example_id"][batch["segment_ids"].any(axis=1), 1].tolist()
        assert len(set(ids)) == len(ids) == min(batch_size, len(lengths))
    rows = list(data.eval_batches(batch_size, np.arange(batch_size), fill=True))
    real = np.concatenate([b["example_weights"] for b in rows]) > 0
    ids = np.concatenate([b["example_id"][:, 1] for b in rows])[real]
    assert sorted(ids.tolist()) == list(range(len(lengths)))


# --- Rows of two sides --------------------------------------------------------------------------


def nested(grid, most):
    """All chains of boxes, each within the next, that end with the last of `grid`."""
    for size in range(most):
        for some in itertools.combinations(grid[:-1], size):
            chain = [*some, grid[-1]]
            if all((a <= b).all() for a, b in itertools.pairwise(chain)):
                yield np.array(chain)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=30),
    st.integers(1, 3),
)
def test_no_other_nested_boxes_waste_less(sizes, count):
    sizes = np.array(sizes)
    lengths = [np.unique(-(-sizes[:, side] // 8) * 8) for side in range(2)]
    grid = [np.array(pair) for pair in itertools.product(*lengths)]

    def padded(chain):
        return sum(int(chain[box_of(size, chain)].sum()) for size in sizes)

    chosen = boxes(sizes, count)
    assert padded(chosen) == min(padded(chain) for chain in nested(grid, count))
    assert len(chosen) <= count and (chosen[-1] >= sizes.max(0)).all()


def two_sided(sizes):
    first, second = examples(sizes[:, 0]), examples(sizes[:, 1])
    second = dataclasses.replace(second, per_row={}, per_token={})
    return dataclasses.replace(first, sides={"targets": second})


def test_batches_of_two_sides_have_few_shapes_and_little_padding_on_both():
    generator = np.random.default_rng(0)
    first = generator.geometric(1 / 40, 3000).clip(4, 256)
    second = (first * generator.uniform(0.2, 0.4, 3000)).astype(int).clip(1)
    data = ExampleData(
        two_sided(np.stack([first, second], 1)), boxes(np.stack([first, second], 1), 4)
    )
    trained = data.train_batches(32, 0, np.arange(32))
    for batches in (
        [trained[i] for i in range(trained.per_epoch)],
        list(data.eval_batches(32, np.arange(32))),
    ):
        shapes = {(x["tokens"].shape, x["targets"].shape) for x in batches}
        assert len(shapes) <= 4
        real = sum(x["targets_segment_ids"].sum() for x in batches)
        assert real == second.sum()
        assert sum(x["segment_ids"].sum() for x in batches) == first.sum()
        assert real / sum(x["targets"].size for x in batches) > 0.4  # 0.12 with one length for all


def test_sorting_within_pools_leaves_little_padding():
    lengths = np.random.default_rng(0).geometric(1 / 40, 5000).clip(4, 256)
    data = ExampleData(examples(lengths), row_lengths(lengths, 6)[:, None])
    batches = data.train_batches(32, 0, np.arange(32))
    taken = [batches[i]["segment_ids"] for i in range(batches.per_epoch)]
    share = sum(x.sum() for x in taken) / sum(x.size for x in taken)
    shuffled = lengths[:4992].reshape(-1, 32)
    unsorted = shuffled.sum() / (shuffled.max(axis=1) * 32).sum()
    assert share > 0.7 > 2 * unsorted - 0.1


# --- Encoding ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


def shortened(a, b, room):
    """Token by token off the longer one, the second one if they are equal."""
    while len(a) + len(b) > room:
        if len(a) > len(b):
            a = a[:-1]
        else:
            b = b[:-1]
    return a, b


@pytest.mark.parametrize("max_length", [6, 9, 14, 100])
def test_pairs_are_framed_and_cut_as_longest_first_does(tokenizer, max_length):
    words = ["the cat", "a dog sees my sister.", "the old man", "every bird follows a dog at home."]
    first = [a for a in words for _ in words]
    second = [b for _ in words for b in words]
    got, cut = encode_rows(tokenizer, first, second, max_length, show=False)
    cls, sep = tokenizer.special_ids["cls"], tokenizer.special_ids["sep"]
    lost = 0
    for i, (a, b) in enumerate(zip(first, second)):
        ids = [x.tolist() for x in tokenizer.encode_batch([a, b])]
        kept = shortened(*ids, max_length - 3)
        row = got.tokens[got.starts[i] : got.starts[i + 1]].tolist()
        assert row == [cls, *kept[0], sep, *kept[1], sep]
        assert got.second[i] == 2 + len(kept[0])
        lost += sum(map(len, ids)) - sum(map(len, kept))
    assert cut.tokens == lost and cut.total == 16


def test_causal_tokenizers_end_the_row_where_it_is_read():
    tokenizer = toy.train_toy_tokenizer("byte_bpe")
    got, cut = encode_rows(tokenizer, ["the cat"], None, 32, show=False)
    assert got.tokens.tolist() == [
        *tokenizer.encode_batch(["the cat"])[0].tolist(),
        tokenizer.document_end,
    ]
    assert cut.rows == 0 and cut.warning(32, "train") is None


def test_a_mostly_truncated_data_set_is_a_loud_warning(tokenizer):
    _, cut = encode_rows(tokenizer, ["the cat sees a dog."] * 3 + ["a"], None, 5, show=False)
    text = cut.warning(5, "train")
    assert text.startswith("WARNING") and "3 of 4 rows (75.0%)" in text


def test_no_room_for_text_is_refused(tokenizer):
    with pytest.raises(UserError, match="no room"):
        encode_rows(tokenizer, ["a"], ["b"], 4, show=False)
