"""Turned and cast copies against numpy's own."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.checkpoint.hf import transpose

DTYPES = [np.float32, np.float16, np.float64, ml_dtypes.bfloat16]


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("source", DTYPES)
@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 19)] * 3),
    num_rows=st.integers(0, 3),
    order=st.permutations(range(3)),
    pieces=st.sampled_from([((4, 3), 1), ((8, 8), 1), ((2, 9), 2), ((256, 2048), 16)]),
)
def test_any_layout_and_dtype_is_copied(target, source, shape, num_rows, order, pieces):
    values = np.random.default_rng(0).standard_normal(shape).astype(source).transpose(order)
    made = np.zeros(values.shape, target)
    given = transpose.BAND, transpose.TILE
    transpose.BAND, transpose.TILE = pieces
    try:
        transpose.copy(made, values, num_rows)
    finally:
        transpose.BAND, transpose.TILE = given
    assert made.tobytes() == np.ascontiguousarray(values).astype(target).tobytes()


def test_what_has_been_read_is_said_to_be_forgotten(monkeypatch):
    monkeypatch.setattr(transpose, "BLOCK", 40)
    values, told = np.arange(30, dtype=np.float32).reshape(6, 5), []
    transpose.copy(np.zeros((6, 5), np.float32), values, 1, told.append)
    assert told == [pytest.approx(share) for share in (2 / 6, 4 / 6, 1.0, 1.0)]


def test_a_target_that_cannot_be_filled_is_an_error():
    with pytest.raises(AssertionError, match="joined"):
        transpose.copy(np.zeros((4, 6, 5))[:, ::2], np.ones((4, 3, 5)), 0)
