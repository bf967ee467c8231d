"""The best spans against all spans, scored one by one."""

import jax
import numpy as np
import pytest

from jaxssl.ops.spans import best_spans

RNG = np.random.default_rng(0)
B, T = 5, 11


def all_spans(start, end, may_start, may_end, longest):
    """Every allowed span of a row, best first."""
    spans = [
        (float(start[i] + end[j]), i, j)
        for i in range(T)
        for j in range(i, min(T, i + longest))
        if may_start[i] and may_end[j]
    ]
    return sorted(spans, reverse=True)


@pytest.mark.parametrize(("longest", "count"), [(1, 3), (4, 7), (30, 20), (3, 100)])
def test_they_are_the_best_of_all_spans(longest, count):
    start, end = (RNG.standard_normal((B, T)).astype(np.float32) for _ in range(2))
    may_start, may_end = RNG.random((B, T)) < 0.6, RNG.random((B, T)) < 0.8
    may_start[0] = False  # a row without any span
    found = jax.jit(best_spans, static_argnames=("longest", "count"))(
        start, end, may_start, may_end, longest=longest, count=count
    )
    scores, first, last = map(np.asarray, found)
    assert scores.shape == first.shape == last.shape == (B, count)
    for row in range(B):
        want = all_spans(start[row], end[row], may_start[row], may_end[row], longest)[:count]
        got = list(zip(scores[row], first[row], last[row]))[: len(want)]
        assert [(i, j) for _, i, j in got] == [(i, j) for _, i, j in want]
        np.testing.assert_allclose([s for s, _, _ in got], [s for s, _, _ in want], rtol=1e-6)
        assert (scores[row, len(want) :] == -np.inf).all()


def test_a_best_start_that_cannot_have_the_best_end_is_found():
    """Joining the two best starts with the two best ends would find nothing: they end before."""
    start = np.array([[0, 1, 0, 9, 8]], np.float32)
    end = np.array([[9, 8, 1, 0, 0.5]], np.float32)
    every = np.ones((1, 5), bool)
    score, first, last = best_spans(start, end, every, every, longest=2, count=2)
    assert score[0].tolist() == [9.5, 9] and last[0].tolist()[0] == 4
    assert first[0].tolist()[0] == 3
