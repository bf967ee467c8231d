import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.report.downsampling import downsample, running_mean, smooth

values = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=300)


@given(values, st.integers(5, 60))
def test_downsampling_keeps_ends_extremes_and_the_limit(content, limit):
    array = np.array(content)
    kept = downsample(array, limit)
    assert len(kept) <= max(limit, 5) and (np.diff(kept) > 0).all()
    assert kept[0] == 0 and kept[-1] == len(array) - 1
    if np.isfinite(array).any():
        assert np.nanmin(array[kept]) == np.nanmin(array)
        assert np.nanmax(array[kept]) == np.nanmax(array)
    assert np.isnan(array[kept]).any() == np.isnan(array).any()


def test_every_stretch_keeps_its_own_spike():
    array = np.zeros(100_000)
    spikes = np.arange(50, 100_000, 1000)
    array[spikes] = np.arange(len(spikes)) + 1
    assert set(spikes) <= set(downsample(array, 1500))


def test_short_series_are_not_thinned():
    assert downsample(np.arange(7.0), 7).tolist() == list(range(7))


@pytest.mark.parametrize("half", [0, 1, 3, 50])
def test_running_mean_is_the_mean_of_the_window(half):
    array = np.random.default_rng(0).normal(size=40)
    array[11] = np.nan
    for index, value in enumerate(running_mean(array, half)):
        reach = min(half, index)
        window = array[index - reach : index + reach + 1]
        expected = np.nan if index == 11 else np.nanmean(window)
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_smoothing_does_not_lift_the_start_of_a_steep_descent():
    array = 10 - np.arange(200.0)
    np.testing.assert_allclose(smooth(array, 5)[:150], array[:150], atol=1e-9)
