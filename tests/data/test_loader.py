"""The loader: a batch is a function of its step, for any start, number of hosts and epoch."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_builder import build_store, random_documents

from jaxssl.core.errors import UserError
from jaxssl.data.config import StoreConfig
from jaxssl.data.loader import (
    StoreBatches,
    StoreData,
    TrainLoader,
    load,
    open_rows,
)
from jaxssl.data.store.packing import Packed
from jaxssl.data.store.pairs import Pairs
from jaxssl.data.store.rows import Windows, identity

KINDS = [Windows(), Packed(), Pairs()]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("store")
    documents = random_documents(np.random.default_rng(0), 60)
    build_store(path, {"train": documents, "validation": documents[:9]}, documents_per_shard=20)
    return lambda rows=KINDS[0], **changes: StoreConfig(
        store=str(path), rows=rows, **{"sequence_length": 32, "batch_size": 8, **changes}
    )


def take(loader, number):
    with loader:
        return [next(loader) for _ in range(number)]


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right):
        assert a.keys() == b.keys()
        for name in a:
            assert np.array_equal(a[name], b[name]), name


def threads():
    return {thread for thread in threading.enumerate() if thread is not threading.main_thread()}


class Numbers:
    """Rows that hold their own index."""

    sequence_length, pad_id = 2, 7

    def __init__(self, num_rows, fails_at=None):
        self.num_rows, self.fails_at = num_rows, fails_at

    def rows(self, indices, epoch):
        if epoch == self.fails_at:
            raise OSError("the disk is gone")
        tokens = np.repeat(np.asarray(indices, np.int32)[:, None], 2, 1)
        ones = np.ones_like(tokens)
        return {"tokens": tokens, "segment_ids": ones, **identity(np.asarray(indices), epoch)}


def shuffled(source, batch_size, seed, **options):
    batches = StoreBatches(source, batch_size, seed, np.arange(batch_size))
    return TrainLoader(batches, **options)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_an_epoch_has_every_row_once_but_those_left_over(num_rows, batch_size, seed):
    batch_size = min(batch_size, num_rows)
    loader = shuffled(Numbers(num_rows), batch_size, seed, prefetch=0)
    assert loader.batches.per_epoch == num_rows // batch_size
    assert loader.batches.left_over == num_rows % batch_size
    batches = take(loader, 2 * loader.batches.per_epoch)
    for epoch in range(2):
        mine = [b for b in batches if b["epoch"][0] == epoch]
        assert len(mine) == loader.batches.per_epoch
        rows = np.concatenate([b["tokens"][:, 0] for b in mine])
        assert len(set(rows.tolist())) == rows.size == num_rows - loader.batches.left_over


@pytest.mark.parametrize("rows", KINDS, ids=lambda rows: rows.name)
def test_epochs_differ_in_order(config, rows):
    with load(config(rows)) as loader:
        per_epoch = loader.batches.per_epoch
        batches = [next(loader) for _ in range(2 * per_epoch)]
    first = [b["example_id"][:, 1].tolist() for b in batches[:per_epoch]]
    second = [b["example_id"][:, 1].tolist() for b in batches[per_epoch:]]
    assert first != second
    assert {b["epoch"][0] for b in batches[per_epoch:]} == {1}


@pytest.mark.parametrize("rows", KINDS, ids=lambda rows: rows.name)
@pytest.mark.parametrize("num_hosts", [2, 4])
def test_hosts_share_the_global_batch(config, rows, num_hosts):
    whole = take(load(config(rows)), 40)
    shares = np.array_split(np.arange(config(rows).batch_size), num_hosts)
    parts = [take(load(config(rows), places=places), 40) for places in shares]
    joined = [{k: np.concatenate([p[k] for p in step]) for k in step[0]} for step in zip(*parts)]
    assert_equal(joined, whole)


@pytest.mark.parametrize("rows", KINDS, ids=lambda rows: rows.name)
def test_resuming_is_setting_a_number(config, rows):
    whole = take(load(config(rows)), 40)
    for start in (0, 1, 7, 39):
        assert_equal(take(load(config(rows), start_step=start), 40 - start), whole[start:])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 5))
def test_any_step_continues_where_another_loader_stopped(start, steps):
    def make(step):
        return shuffled(Numbers(50), 8, 1, start_step=step, prefetch=0)

    loader = make(start)
    for _ in range(steps):
        next(loader)
    assert loader.step == start + steps
    assert_equal(take(make(loader.step), 3), take(loader, 3))


def test_prefetch_does_not_change_the_batches(config):
    assert_equal(take(load(config(prefetch=0)), 20), take(load(config(prefetch=7)), 20))


def test_close_leaves_no_thread_behind(config):
    before = threads()
    loader = load(config())
    next(loader)
    assert threads() - before
    loader.close()
    loader.close()
    for thread in threads() - before:
        thread.join(timeout=5)
    assert not threads() - before


@pytest.mark.parametrize("prefetch", [0, 4])
def test_a_failure_while_reading_ahead_reaches_the_caller(prefetch):
    before = threads()
    loader = shuffled(Numbers(8, fails_at=2), 4, 0, prefetch=prefetch)
    for _ in range(4):
        next(loader)
    with pytest.raises(OSError, match="the disk is gone"):
        next(loader)
    # The failed batch is never passed over.
    with pytest.raises(ValueError):
        next(loader)
    for thread in threads() - before:
        thread.join(timeout=5)
    assert not threads() - before and loader.step == 4


def test_batches_that_cannot_be_are_refused(config):
    with pytest.raises(UserError, match="fewer rows than one batch"):
        load(config(batch_size=10_000))
    with pytest.raises(UserError, match="batch_size"):
        load(config(batch_size=0))
    with pytest.raises(UserError, match="sequence_length"):
        load(config(sequence_length=0))
    with pytest.raises(UserError, match="validation"):
        load(config(), "valid")
    with pytest.raises(UserError, match="no token store"):
        load(StoreConfig(store="/nowhere"))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 12), st.sampled_from([1, 2, 4]))
def test_evaluation_sees_every_row_once_in_order(num_rows, share, num_hosts):
    hosts = [
        list(StoreData(Numbers(num_rows)).eval_batches(share * num_hosts, places))
        for places in np.arange(share * num_hosts).reshape(num_hosts, share)
    ]
    assert len({len(batches) for batches in hosts}) == 1
    tokens, real = [], []
    for parts in zip(*hosts):
        assert {p["tokens"].shape for p in parts} == {(share, 2)}
        tokens += [t for p in parts for t in p["tokens"][:, 0].tolist()]
        real += [s for p in parts for s in p["segment_ids"].all(1).tolist()]
        for part in parts:
            padding = part["segment_ids"][:, 0] == 0
            assert (part["tokens"][padding] == 7).all() and not part["example_id"][padding].any()
    assert [t for t, r in zip(tokens, real) if r] == list(range(num_rows))
    assert real == sorted(real, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.integers(1, 12))
def test_where_it_is_filled_up_each_batch_has_as_many_different_rows(num_rows, batch_size):
    data, counted = StoreData(Numbers(num_rows)), []
    for batch in data.eval_batches(batch_size, np.arange(batch_size), fill=True):
        there = batch["tokens"][batch["segment_ids"].all(axis=1), 0].tolist()
        assert len(set(there)) == len(there) == min(batch_size, num_rows)
        counted += batch["tokens"][batch["example_weights"] > 0, 0].tolist()
    assert counted == list(range(num_rows))


@pytest.mark.parametrize("rows", KINDS, ids=lambda rows: rows.name)
def test_evaluation_repeats_itself_and_spreads_what_its_limit_leaves(config, rows):
    source = open_rows(config(rows), "validation")
    whole = list(StoreData(source).eval_batches(8, np.arange(8)))
    assert_equal(list(StoreData(source).eval_batches(8, np.arange(8))), whole)
    assert_equal(list(StoreData(source).eval_batches(8, np.arange(8), len(whole))), whole)
    few = list(StoreData(source).eval_batches(4, np.arange(4), 2))
    ids = np.concatenate([batch["example_id"][:, 1] for batch in few])
    assert len(few) == 2 and ids.tolist() == [i * source.num_rows // 8 for i in range(8)]
    seen = sum(int((b["segment_ids"].max(1) > 0).sum()) for b in whole)
    assert seen == source.num_rows
