"""How sure a difference between two systems is."""

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.scores.counts import check_pairs
from jaxssl.scores.regression import check_numbers

BLOCK = 2**22
"""How many resampled values are held at once."""


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, samples: int, seed: int, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The mean of a - b, with its percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13).

    `a[i]` and `b[i]` are two systems' scores of one thing: of example i (then the interval tells
    how the difference would vary over other test examples), or of runs with seed i (then over other
    seeds). Pairs are drawn together, so what makes an example hard for both cancels out. Over a
    handful of seeds the interval is too narrow: it knows no value outside those seen.

    Args:
      a: scores [N] of the first system.
      b: scores [N] of the second system.
      samples: how many times N pairs are drawn with replacement.
      seed: of the draws; the same seed gives the same interval.
      confidence: the share of the resampled differences that lie in the interval.

    Returns:
      (difference, low, high): positive favours `a`.

    Raises:
      UserError: the lengths differ or are zero, a score is not finite, or an option is out of
        range.
    """
    a, b = np.asarray(a), np.asarray(b)
    check_numbers(a, "a")
    check_numbers(b, "b")
    check_pairs(a, b, "pairs")
    if samples < 1:
        raise UserError("too few samples", where="samples", expected="1 or more", got=samples)
    if not 0 < confidence < 1:
        raise UserError("no such share", where="confidence", expected="0 to 1", got=confidence)
    difference = a.astype(np.float64) - b.astype(np.float64)
    generator, size = np.random.default_rng(seed), len(difference)
    rows = max(BLOCK // size, 1)
    means = np.concatenate(
        [
            difference[generator.integers(size, size=(min(rows, samples - start), size))].mean(1)
            for start in range(0, samples, rows)
        ]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(difference.mean()), float(low), float(high)
