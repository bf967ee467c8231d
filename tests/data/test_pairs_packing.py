"""Pairs packed by both of their lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.data.pairs_packing import fit_both

ROOM = (12, 9)
PAIRS = st.lists(st.tuples(st.integers(1, ROOM[0]), st.integers(1, ROOM[1])), min_size=1)


@given(PAIRS)
def test_each_pair_is_in_one_row_and_no_row_is_too_full(pairs):
    lengths = np.array(pairs)
    rows = fit_both(lengths, ROOM)
    assert sorted(number for row in rows for number in row) == list(range(len(pairs)))
    for row in rows:
        assert (lengths[row].sum(axis=0) <= ROOM).all()


@given(PAIRS)
def test_no_two_rows_that_were_open_together_fit_into_one(pairs):
    """First fit leaves at most one row of pairs that are all below half of the room."""
    lengths = np.array(pairs)
    rows = fit_both(lengths, ROOM)
    half = [row for row in rows if (2 * lengths[row].sum(axis=0) <= np.array(ROOM)).all()]
    assert len(half) <= max(1, len(rows) - 64)
