"""Learning rate schedules against formulas written out step by step."""

import math

import jax
import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.optim.schedules import Schedule, make_schedule

PEAK, TOTAL = 0.5, 40


def curve(config, steps=TOTAL, tokens_per_step=1):
    schedule = make_schedule(config, PEAK, TOTAL, tokens_per_step)
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps)))


def golden(shape, warmup):
    return [PEAK * (s + 1) / warmup if s < warmup else shape(s) for s in range(TOTAL)]


def check(config, shape, warmup=8, **kwargs):
    np.testing.assert_allclose(curve(config, **kwargs), golden(shape, warmup), rtol=2e-6, atol=1e-8)


def linear(s, floor=0.0):
    return PEAK * (1 - (1 - floor) * (s - 8) / (TOTAL - 8))


def cosine(s, floor=0.0):
    share = 0.5 * (1 + math.cos(math.pi * (s - 8) / (TOTAL - 8)))
    return PEAK * (floor + (1 - floor) * share)


def wsd(s, floor=0.0, length=10, root=False):
    done = max(0.0, (s - (TOTAL - length)) / length)
    return PEAK * (floor + (1 - floor) * (1 - (math.sqrt(done) if root else done)))


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_each_schedule_follows_its_formula(floor):
    shared = dict(warmup=8, floor=floor)
    check(Schedule(name="linear", **shared), lambda s: linear(s, floor))
    check(Schedule(name="cosine", **shared), lambda s: cosine(s, floor))
    check(Schedule(name="wsd", decay=10, **shared), lambda s: wsd(s, floor))
    root = Schedule(name="wsd", decay=10, decay_shape="sqrt", **shared)
    check(root, lambda s: wsd(s, floor, root=True))
    check(Schedule(name="constant", **shared), lambda s: PEAK)


def test_lengths_may_be_shares_of_the_run_or_tokens():
    want = Schedule(name="wsd", warmup=8, decay=10)
    shares = Schedule(name="wsd", warmup=0.2, decay=0.25)
    assert np.array_equal(curve(shares), curve(want))
    tokens = Schedule(name="wsd", unit="tokens", warmup=8 * 512, decay=10 * 512)
    assert np.array_equal(curve(tokens, tokens_per_step=512), curve(want))
    started = Schedule(name="wsd", unit="tokens", warmup=7 * 512 + 1, decay=0.25)
    assert np.array_equal(curve(started, tokens_per_step=512), curve(want))


def test_without_warmup_the_first_update_has_the_peak():
    for name in ("linear", "cosine", "wsd", "constant"):
        assert curve(Schedule(name=name))[0] == pytest.approx(PEAK)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_after_its_end_a_decay_stays_at_the_floor(name, shape):
    config = Schedule(name=name, warmup=4, floor=0.1, decay_shape=shape)
    assert np.allclose(curve(config, steps=80)[TOTAL:], 0.1 * PEAK, atol=1e-7)


def test_a_schedule_longer_than_the_run_is_refused():
    for config in (Schedule(warmup=41), Schedule(name="wsd", warmup=30, decay=11)):
        with pytest.raises(UserError, match="longer than the run"):
            make_schedule(config, PEAK, TOTAL, 1)
    make_schedule(Schedule(name="wsd", warmup=30, decay=10), PEAK, TOTAL, 1)


def test_negative_lengths_are_refused():
    with pytest.raises(UserError, match="out of range"):
        Schedule(warmup=-1)


# --- Up and down ------------------------------------------------------------------------------


def test_slanted_triangular_is_ulmfits():
    """Howard & Ruder, 2018, equation 3, with cut_frac 0.25 and ratio 32."""
    cut = 10

    def formula(t):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / 0.25 - 1))
        return PEAK * (1 + p * 31) / 32

    want = [formula(t) for t in range(TOTAL)]
    np.testing.assert_allclose(curve(Schedule(name="slanted", warmup=0.25)), want, rtol=2e-6)


def triangle(t, half, low):
    cycle = math.floor(1 + t / (2 * half))
    return cycle, max(0.0, 1 - abs(t / half - 2 * cycle + 1)) * (PEAK - low)


@pytest.mark.parametrize("name", ["triangular", "triangular2", "exp_range"])
def test_cyclical_rates_are_smiths(name):
    low, want = PEAK * 0.1, []
    for t in range(TOTAL):
        cycle, rise = triangle(t, 5, low)
        factor = {"triangular": 1, "triangular2": 0.5 ** (cycle - 1), "exp_range": 0.98**t}[name]
        want.append(low + rise * factor)
    config = Schedule(name=name, half_cycle=5, floor=0.1, gamma=0.98)
    np.testing.assert_allclose(curve(config), want, rtol=1e-5)
    assert max(want) == pytest.approx(PEAK, rel=0.11 if name == "exp_range" else 1e-6)


def test_one_cycle_rises_from_a_25th_and_ends_near_zero():
    got = curve(Schedule(name="one_cycle", warmup=0.3))
    up = 12

    def formula(t):
        between = lambda a, b, x: b + (a - b) * (1 + math.cos(math.pi * x)) / 2
        if t < up:
            return between(PEAK / 25, PEAK, t / up)
        return between(PEAK, PEAK / 25e4, (t - up) / (TOTAL - up))

    np.testing.assert_allclose(got, [formula(t) for t in range(TOTAL)], rtol=1e-5)
    assert got[0] == pytest.approx(PEAK / 25) and got.argmax() == up


@pytest.mark.parametrize("name", ["slanted", "one_cycle"])
def test_a_way_up_is_needed(name):
    with pytest.raises(UserError, match="way up"):
        Schedule(name=name)
