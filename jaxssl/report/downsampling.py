"""Long series made drawable: smoothed for the eye, downsampled without losing an extreme."""

import numpy as np


def smooth(values: np.ndarray, half_width: int) -> np.ndarray:
    """A running mean, `half_width` points on either side, taken three times (nearly a Gaussian)."""
    for _ in range(3):
        values = running_mean(values, half_width)
    return values


def running_mean(values: np.ndarray, half_width: int) -> np.ndarray:
    """The mean over `half_width` points on either side, non-finite ones left out.

    Near the start the window shrinks on both sides, so that a steep first descent is not smeared
    upwards; at the end it takes the points there are. NaN where the value itself is not finite.
    """
    size = len(values)
    usable = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(usable, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(usable)])
    here = np.arange(size)
    half = np.minimum(half_width, here)
    start, stop = here - half, np.minimum(here + half + 1, size)
    total, count = sums[stop] - sums[start], counts[stop] - counts[start]
    return np.where(usable, total / np.maximum(count, 1), np.nan)


def downsample(values: np.ndarray, limit: int) -> np.ndarray:
    """Indices, ascending, of at most `limit` points that show `values`.

    The series is cut into equal runs; of each, the lowest and the highest point stay, and the first
    that is not finite (the gap is drawn). The first and the last point stay.
    """
    size = len(values)
    if size <= limit:
        return np.arange(size)
    buckets = max((limit - 2) // 3, 1)
    edges = np.linspace(0, size, buckets + 1).astype(np.int64)
    finite = np.isfinite(values)
    low = np.where(finite, values, np.inf)
    high = np.where(finite, values, -np.inf)
    kept = [0, size - 1]
    for start, stop in zip(edges[:-1], edges[1:]):
        inside = finite[start:stop]
        if inside.any():
            kept += [start + low[start:stop].argmin(), start + high[start:stop].argmax()]
        if not inside.all():
            kept.append(start + inside.argmin())
    return np.unique(np.array(kept, np.int64))
