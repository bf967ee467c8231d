"""Rows of different lengths, one after the other in one array."""

import numpy as np


def row_splits(lengths: np.ndarray) -> np.ndarray:
    """int64 [N + 1]: where rows of these lengths start, one after the other, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ragged_arange(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenation of `arange(start, start + length)` for each pair, [sum of lengths] int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
