"""Pairs of texts, several in a row: both sides must fit."""

import numpy as np

OPEN = 64
"""Rows that further pairs are tried in, those begun last."""


def fit_both(lengths: np.ndarray, capacities: tuple[int, int]) -> list[list[int]]:
    """The pairs that each row holds, largest first: a pair goes to the row that it fills most, of
    the `OPEN` that were begun last.

    Args:
      lengths: int64 [N, 2], tokens of both sides, none above its capacity.
      capacities: tokens of a row on either side.
    """
    room = np.asarray(capacities, np.int64)
    rows: list[list[int]] = []
    left = np.zeros((OPEN, 2), np.int64)  # of row r at place r % OPEN
    shares = (lengths / room).max(axis=1)
    for number in np.argsort(-shares, kind="stable").tolist():
        after = left - lengths[number]
        fits = (after >= 0).all(axis=1)
        if fits.any():
            place = int(np.argmin(np.where(fits, after.sum(axis=1), np.iinfo(np.int64).max)))
            last = len(rows) - 1
            rows[last - (last - place) % OPEN].append(number)
            left[place] = after[place]
            continue
        left[len(rows) % OPEN] = room - lengths[number]
        rows.append([number])
    return rows
