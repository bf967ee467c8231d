"""The epoch's order: a bijection for any size, different each epoch, without structure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from jaxssl.data import counter
from jaxssl.data.order import permute


@pytest.mark.parametrize("size", [*range(1, 70), 1000, 1021, 4096, 65_537, 99_999])
def test_is_a_bijection(size):
    result = permute(np.arange(size), size, seed=3, epoch=1)
    assert np.array_equal(np.sort(result), np.arange(size))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 2**63), st.integers(0, 2**31))
def test_is_a_bijection_for_any_key(size, seed, epoch):
    assert np.unique(permute(np.arange(size), size, seed, epoch)).size == size


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2**60), st.integers(0, 100))
def test_stays_in_range_and_apart_for_huge_sizes(size, seed):
    indices = np.unique(np.random.default_rng(seed).integers(0, size, 500))
    result = permute(indices, size, seed, 0)
    assert result.min() >= 0 and result.max() < size
    assert np.unique(result).size == indices.size


def test_an_index_does_not_depend_on_its_company():
    together = permute(np.arange(100).reshape(10, 10), 1000, 5, 2)
    alone = [int(permute(np.array([i]), 1000, 5, 2)[0]) for i in range(100)]
    assert together.ravel().tolist() == alone


def test_epochs_and_seeds_differ():
    size = 10_000
    orders = [permute(np.arange(size), size, s, e) for s in (0, 1) for e in (0, 1, 2)]
    for first in range(len(orders)):
        for second in range(first):
            # Two random permutations agree in Poisson(1) places.
            assert (orders[first] == orders[second]).sum() < 12
    assert (orders[0] == np.arange(size)).sum() < 12


@pytest.mark.parametrize("size", [4096, 10_007])
def test_places_are_uniform_and_unrelated(size):
    """Chi-square on 16 x 16 tables of (where from, where to), neighbours and epochs."""
    cells, limit = 16, chi2.ppf(1 - 1e-6, 15 * 15)
    here = np.arange(size)
    first, second = permute(here, size, 7, 0), permute(here, size, 7, 1)
    pairs = [(here, first), (first[:-1], first[1:]), (first, second), (first[:-64], first[64:])]
    for left, right in pairs:
        table, _, _ = np.histogram2d(left, right, bins=cells, range=[[0, size], [0, size]])
        expected = table.sum() / cells**2
        assert ((table - expected) ** 2 / expected).sum() < limit
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(size)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_sizes_reach_every_order_about_equally(size):
    """A hundred keys an order, or more: within 6 standard deviations of uniform."""
    orders = [tuple(permute(np.arange(size), size, 0, e).tolist()) for e in range(2_400)]
    found = np.unique(orders, axis=0, return_counts=True)[1]
    number = int(np.prod(np.arange(1, size + 1)))
    assert found.size == number
    expected = len(orders) / number
    assert np.abs(found - expected).max() < 6 * np.sqrt(expected)


def test_outside_indices_are_refused():
    for index in (-1, 10):
        with pytest.raises(IndexError):
            permute(np.array([index]), 10, 0, 0)


def test_counters_draw_uniformly():
    """Kolmogorov-Smirnov over counters, over keys, and every bit is fair (5 deviations)."""
    drawn = counter.bits(counter.key(1, 2), np.arange(50_000), 3)
    assert kstest(counter.uniform(drawn), "uniform").pvalue > 1e-4
    keys = np.array([counter.key(1, word) for word in range(5_000)])
    assert kstest(counter.uniform(keys), "uniform").pvalue > 1e-4
    ones = (drawn[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).sum(0, dtype=np.int64)
    assert np.abs(ones - 25_000).max() < 5 * np.sqrt(50_000 / 4)
    assert np.bincount(counter.below(drawn, 7)).min() > 50_000 / 7 - 5 * np.sqrt(50_000 / 7)
