"""Packing: every token in exactly one row, no row too full, plans whole or refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builder import DOCUMENT_END, build_store, random_documents

from jaxssl.core.errors import UserError
from jaxssl.data.store.packing import Packed, best_fit, plan_path, write_pack_plan


def best_fit_one_by_one(lengths, capacity):
    """The textbook algorithm: longest first, into the fullest bin that has room."""
    rooms, bins = [], {}
    for piece in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [b for b, room in enumerate(rooms) if room >= lengths[piece]]
        if not fits:
            rooms.append(capacity)
            fits = [len(rooms) - 1]
        chosen = min(fits, key=lambda b: rooms[b])
        rooms[chosen] -= lengths[piece]
        bins[piece] = chosen
    return bins, rooms


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda capacity: st.tuples(
            st.lists(st.integers(1, capacity), max_size=80), st.just(capacity)
        )
    )
)
def test_best_fit_fills_bins_as_the_textbook_does(case):
    lengths, capacity = case
    bins = best_fit(np.array(lengths, np.int64), capacity)
    _, rooms = best_fit_one_by_one(lengths, capacity)
    used = np.bincount(bins, weights=lengths, minlength=len(rooms)) if lengths else np.zeros(0)
    assert sorted(capacity - used) == sorted(rooms)
    assert set(bins.tolist()) == set(range(len(rooms)))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, 50),
    documents_per_shard=st.sampled_from([None, 1, 7]),
)
def test_every_token_is_in_exactly_one_row(tmp_path_factory, seed, length, documents_per_shard):
    documents = random_documents(np.random.default_rng(seed), 20, sentences=(1, 4), length=(1, 20))
    store = build_store(
        tmp_path_factory.mktemp("store"),
        {"train": documents},
        documents_per_shard=documents_per_shard,
    )
    source = Packed().open(store.split("train"), length, 0, store.special_ids)
    order = np.random.default_rng(seed).permutation(source.num_rows)
    batch = source.rows(order, 0)
    found, real = [], 0
    for tokens, ids, positions in zip(*(batch[k] for k in ("tokens", "segment_ids", "positions"))):
        used = int((ids > 0).sum())
        assert used > 0 and (ids[:used] > 0).all() and not ids[used:].any()
        assert not tokens[used:].any() and not positions[used:].any()
        assert ids[0] == 1 and set(np.diff(ids[:used])) <= {0, 1}
        for segment in range(1, ids.max() + 1):
            piece = tokens[ids == segment]
            assert positions[ids == segment].tolist() == list(range(len(piece)))
            found.append(tuple(piece.tolist()))
        real += used
    expected = []
    for document in documents:
        tokens = [t for sentence in document for t in sentence] + [DOCUMENT_END]
        expected += [tuple(tokens[i : i + length]) for i in range(0, len(tokens), length)]
    assert sorted(found) == sorted(expected)
    assert source.fill == pytest.approx(real / batch["tokens"].size)


@pytest.fixture
def store(tmp_path):
    documents = random_documents(np.random.default_rng(0), 40)
    return build_store(tmp_path, {"train": documents}, documents_per_shard=15)


def test_rows_follow_the_stream(store):
    source = Packed().open(store.split("train"), 64)
    first = source._plan["starts"][np.concatenate([[0], source._plan["rows"][:-1]])]
    assert (np.diff(first) > 0).all()


def test_the_same_plan_is_written_each_time(store):
    split = store.split("train")
    path = write_pack_plan(split, 64)
    files = [path, *(plan_path(split, 64, kind) for kind in ("starts", "lengths", "rows"))]
    before = [file.read_bytes() for file in files]
    write_pack_plan(split, 64)
    assert [file.read_bytes() for file in files] == before
    assert not [file for file in split.directory.iterdir() if file.name.endswith(".tmp")]


def test_a_plan_that_does_not_fit_is_refused(store):
    split = store.split("train")
    path = write_pack_plan(split, 64)
    header = path.read_text()
    for content in (
        "{",
        "[]",
        json.dumps({**json.loads(header), "documents": {}}),
        json.dumps({**json.loads(header), "format": 2}),
        json.dumps({**json.loads(header), "pieces": 1}),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match="pack plan"):
            Packed().open(split, 64)
    path.write_text(header)
    starts = plan_path(split, 64, "starts")
    starts.write_bytes(starts.read_bytes()[:-8])
    with pytest.raises(UserError, match="pack-64.starts"):
        Packed().open(split, 64)
    with pytest.raises(UserError, match="at least one token"):
        write_pack_plan(split, 0)


def test_a_plan_that_cannot_be_written_is_a_clear_error(store, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("jaxssl.data.store.packing.atomic_write", refuse)
    with pytest.raises(UserError, match="Read-only file system"):
        Packed().open(store.split("train"), 64)


def test_packing_wastes_little():
    """Best-fit decreasing on many short documents leaves under 1% of places empty."""
    lengths = np.random.default_rng(0).integers(1, 200, 20_000)
    bins = best_fit(lengths, 512)
    assert lengths.sum() / (512 * (bins.max() + 1)) > 0.99
