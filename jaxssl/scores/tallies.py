"""Sums over examples that common scores are functions of: for resampling, and for adding up."""

import numpy as np


def share(sums: np.ndarray) -> np.ndarray:
    """right / all [...] of sums [..., 2]."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-300)


def f1(sums: np.ndarray) -> np.ndarray:
    """2 * correct / (predicted + to be found) [...] of sums [..., 3]; 0 where both are 0."""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1e-300)


def moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1, x, y, x^2, y^2, x y of each pair: [E, 6] of x [E] and y [E]."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=-1)


def correlation(sums: np.ndarray) -> np.ndarray:
    """Pearson's correlation [...] of summed `moments` [..., 6]; 0 where either side is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum(xx - x * x / n, 0) * np.maximum(yy - y * y / n, 0))
    return np.where(
        spread > 1e-12 * np.maximum(n, 1), (xy - x * y / n) / np.maximum(spread, 1e-300), 0.0
    )
