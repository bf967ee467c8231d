"""How sure a difference between two systems is."""

from collections.abc import Callable

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.scores.counts import check_pairs

BLOCK = 2**22
"""How many resampled values are held at once."""

Metric = Callable[[np.ndarray], np.ndarray]
"""Sums [..., M] to a score [...]: correct / all, say."""


def bootstrap_difference(
    metric: Metric,
    a: np.ndarray,
    b: np.ndarray,
    samples: int,
    seed: int,
    *,
    paired: bool = True,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """How much better system `a` scores than `b`, with its percentile bootstrap interval (Efron &
    Tibshirani 1993, ch. 13).

    A score is a function of sums over examples, so that any metric of counts can be resampled, not
    just means. Both systems are given the same resampled examples, so what makes an example hard
    for both cancels out; of several runs (seeds), runs are resampled too. Over a handful of seeds
    the interval is too narrow: it knows no run outside those seen.

    Args:
      metric: of summed tallies.
      a: [R, E, M]: M tallies of each example in each run of the first system.
      b: of the second system, over the same examples.
      samples: how many times examples and runs are drawn with replacement.
      seed: of the draws; the same seed gives the same interval.
      paired: run r of one belongs to run r of the other, and they are drawn together.
      confidence: the share of the resampled differences that lie in the interval.

    Returns:
      (difference of the mean scores, low, high): positive favours `a`.

    Raises:
      UserError: the numbers of examples (or of paired runs) differ or are zero, a tally is not
        finite, or an option is out of range.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    _check(a, b, paired, samples, confidence)
    examples, of_a, of_b = np.random.default_rng(seed).spawn(3)
    size, found = a.shape[1], []
    block = max(BLOCK // size, 1)
    for start in range(0, samples, block):
        count = min(block, samples - start)
        weights = _drawn(examples.integers(size, size=(count, size)))
        runs_a = of_a.integers(len(a), size=(count, len(a)))
        runs_b = runs_a if paired else of_b.integers(len(b), size=(count, len(b)))
        resampled = [_resampled(metric, a, weights, runs_a), _resampled(metric, b, weights, runs_b)]
        found.append(resampled[0] - resampled[1])
    low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    difference = metric(a.sum(axis=1)).mean() - metric(b.sum(axis=1)).mean()
    return float(difference), float(low), float(high)


def _drawn(draws: np.ndarray) -> np.ndarray:
    """How often each example was drawn, float64 [S, E], of draws [S, E]."""
    count, size = draws.shape
    places = draws + np.arange(count)[:, None] * size
    return np.bincount(places.ravel(), minlength=count * size).reshape(count, size) * 1.0


def _resampled(
    metric: Metric, tallies: np.ndarray, weights: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Mean scores [S] of the runs `chosen` [S, R], examples weighed by `weights` [S, E]."""
    scores = metric(np.einsum("se,rem->srm", weights, tallies, optimize=True))
    return np.take_along_axis(scores, chosen, axis=1).mean(axis=1)


def _check(a: np.ndarray, b: np.ndarray, paired: bool, samples: int, confidence: float) -> None:
    check_pairs(a[0], b[0], "examples")
    if paired:
        check_pairs(a, b, "runs")
    for name, tallies in (("a", a), ("b", b)):
        if not np.isfinite(tallies).all():
            raise UserError("a tally is not finite", where=name, expected="finite numbers")
    if samples < 1:
        raise UserError("too few samples", where="samples", expected="1 or more", got=samples)
    if not 0 < confidence < 1:
        raise UserError("no such share", where="confidence", expected="0 to 1", got=confidence)
