import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.report.scale import (
    Axis,
    duration_text,
    linear_axis,
    log_axis,
    log_ticks,
    tick_text,
    ticks,
    value_text,
)


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_ticks_are_few_inside_and_evenly_spaced(low, width):
    if low + width == low or width < abs(low) * 1e-9:
        return
    high = low + width
    found = ticks(low, high, 5)
    assert 1 <= len(found) <= 7
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in found)
    np.testing.assert_allclose(np.diff(found), np.diff(found)[:1].repeat(len(found) - 1), rtol=1e-3)


@given(st.floats(-7, 7), st.floats(0.02, 8))
def test_log_ticks_are_inside_and_a_readable_number(exponent, decades):
    low, high = 10**exponent, 10 ** (exponent + decades)
    found = log_ticks(low, high)
    assert 1 <= len(found) <= 10
    assert all(low * 0.998 <= tick <= high * 1.002 for tick in found)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_every_point_lies_inside_its_axis(content):
    array = np.array(content)
    for axis in (linear_axis(array), linear_axis(array, zero=True), log_axis(array)):
        places = axis.place(array)
        assert ((places >= 0) & (places <= 1)).all()


def test_what_has_no_place_on_an_axis_is_a_gap():
    array = np.array([1.0, np.nan, np.inf, 0.0, -1.0])
    assert np.isnan(Axis(0, 2).place(array)).tolist() == [False, True, True, False, False]
    assert np.isnan(Axis(1, 2, log=True).place(array)).tolist() == [False, True, True, True, True]
    assert log_axis(np.array([0.0, -1.0, np.nan])) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1.5k"), (2e6, "2M"), (3e-4, "3e-4"), (1e-5, "1e-5")],
)
def test_tick_texts_are_short(value, text):
    assert tick_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (math.nan, "nan"),
        (3.14159, "3.142"),
        (53.98, "53.98"),
        (0.30429, "0.3043"),
        (15171.4, "15,171"),
        (2.5e-5, "2.5e-5"),
        (0.0, "0"),
    ],
)
def test_values_are_written_with_four_digits(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (12.34, "12.3 s"), (324, "5 min 24 s"), (3720, "1 h 02 min")],
)
def test_durations_are_written_in_their_units(seconds, text):
    assert duration_text(seconds) == text
