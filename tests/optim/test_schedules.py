"""Learning rate schedules against formulas written out step by step."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.config import build, to_dict
from jaxssl.core.errors import UserError
from jaxssl.core.registry import choice_name, members
from jaxssl.optim.schedules import (
    Constant,
    Cosine,
    ExpRange,
    Linear,
    OneCycle,
    Rsqrt,
    Schedule,
    SlantedTriangular,
    Triangular,
    Triangular2,
    WarmupStableDecay,
    upgraded_schedule,
)

PEAK, TOTAL = 0.5, 40


def curve(config, steps=TOTAL, tokens_per_step=1):
    schedule = config.make(PEAK, TOTAL, tokens_per_step)
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
    check(Linear(**shared), lambda s: linear(s, floor))
    check(Cosine(**shared), lambda s: cosine(s, floor))
    check(WarmupStableDecay(decay=10, **shared), lambda s: wsd(s, floor))
    root = WarmupStableDecay(decay=10, decay_shape="sqrt", **shared)
    check(root, lambda s: wsd(s, floor, root=True))
    check(Constant(warmup=8), lambda s: PEAK)


def test_rsqrt_holds_its_peak_and_falls_by_the_root_of_the_step():
    for hold, steps in ((8, 8), (0.5, 20), (20, 20), (10 * TOTAL, 10 * TOTAL)):
        check(Rsqrt(warmup=8, hold=hold), lambda s, k=steps: PEAK * math.sqrt(k / max(s, k)))
    tokens = Rsqrt(unit="tokens", warmup=4 * 512, hold=9 * 512)
    check(tokens, lambda s: PEAK * math.sqrt(9 / max(s, 9)), warmup=4, tokens_per_step=512)


def test_rsqrt_is_t5s():
    """1 / sqrt(max(n, k)) with k = 10,000 (Raffel et al., 2019, 3.1.2), as its defaults are."""
    steps = np.arange(0, 40_000, 999)
    got = jax.jit(jax.vmap(Rsqrt().make(0.01, 2**19, 1)))(steps)
    np.testing.assert_allclose(got, 1 / np.sqrt(np.maximum(steps, 10_000)), rtol=1e-6)


def test_rsqrt_with_a_warmup_as_long_as_its_hold_is_vaswanis():
    """width^-0.5 * min(n^-0.5, n * warmup^-1.5), equation 3; a step that goes up is the n-th, as
    there, and one that goes down has n before it."""
    width, warmup = 512, 16
    rate = lambda n: width**-0.5 * min((n or 1) ** -0.5, n * warmup**-1.5)
    got = jax.vmap(Rsqrt(warmup=warmup, hold=warmup).make(rate(warmup), TOTAL, 1))(np.arange(TOTAL))
    want = [rate(s + 1) if s < warmup else rate(s) for s in range(TOTAL)]
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_a_warmup_beyond_the_hold_is_refused():
    for config in (Rsqrt(warmup=9, hold=8), Rsqrt(warmup=0.5, hold=0.25)):
        with pytest.raises(UserError, match="warm-up goes on"):
            config.make(PEAK, TOTAL, 1)


def test_lengths_may_be_shares_of_the_run_or_tokens():
    want = WarmupStableDecay(warmup=8, decay=10)
    shares = WarmupStableDecay(warmup=0.2, decay=0.25)
    assert np.array_equal(curve(shares), curve(want))
    tokens = WarmupStableDecay(unit="tokens", warmup=8 * 512, decay=10 * 512)
    assert np.array_equal(curve(tokens, tokens_per_step=512), curve(want))
    started = WarmupStableDecay(unit="tokens", warmup=7 * 512 + 1, decay=0.25)
    assert np.array_equal(curve(started, tokens_per_step=512), curve(want))


def test_without_warmup_the_first_update_has_the_peak():
    for config in (Linear(), Cosine(), WarmupStableDecay(), Constant(), Rsqrt()):
        assert curve(config)[0] == pytest.approx(PEAK)


@pytest.mark.parametrize("kind", [Linear, Cosine, WarmupStableDecay])
def test_after_its_end_a_decay_stays_at_the_floor(kind):
    config = kind(warmup=4, floor=0.1)
    assert np.allclose(curve(config, steps=80)[TOTAL:], 0.1 * PEAK, atol=1e-7)
    config = WarmupStableDecay(warmup=4, floor=0.1, decay_shape="sqrt")
    assert np.allclose(curve(config, steps=80)[TOTAL:], 0.1 * PEAK, atol=1e-7)


def test_a_schedule_longer_than_the_run_is_refused():
    for config in (Linear(warmup=41), WarmupStableDecay(warmup=30, decay=11)):
        with pytest.raises(UserError, match="longer than the run"):
            config.make(PEAK, TOTAL, 1)
    WarmupStableDecay(warmup=30, decay=10).make(PEAK, TOTAL, 1)


def test_negative_lengths_are_refused():
    with pytest.raises(UserError, match="out of range"):
        Linear(warmup=-1)


# --- Up and down ------------------------------------------------------------------------------


def test_slanted_triangular_is_ulmfits():
    """Howard & Ruder, 2018, equation 3, with cut_frac 0.25 and ratio 32."""
    cut = 10

    def formula(t):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / 0.25 - 1))
        return PEAK * (1 + p * 31) / 32

    want = [formula(t) for t in range(TOTAL)]
    np.testing.assert_allclose(curve(SlantedTriangular(warmup=0.25)), want, rtol=2e-6)


def triangle(t, half, low):
    cycle = math.floor(1 + t / (2 * half))
    return cycle, max(0.0, 1 - abs(t / half - 2 * cycle + 1)) * (PEAK - low)


CYCLES = {
    Triangular(half_cycle=5, floor=0.1): lambda t, cycle: 1,
    Triangular2(half_cycle=5, floor=0.1): lambda t, cycle: 0.5 ** (cycle - 1),
    ExpRange(half_cycle=5, floor=0.1, gamma=0.98): lambda t, cycle: 0.98**t,
}


@pytest.mark.parametrize("config", CYCLES, ids=lambda config: config.name)
def test_cyclical_rates_are_smiths(config):
    low, want = PEAK * 0.1, []
    for t in range(TOTAL):
        cycle, rise = triangle(t, 5, low)
        want.append(low + rise * CYCLES[config](t, cycle))
    np.testing.assert_allclose(curve(config), want, rtol=1e-5)
    assert max(want) == pytest.approx(PEAK, rel=0.11 if config.name == "exp_range" else 1e-6)


def test_one_cycle_rises_from_a_25th_and_ends_near_zero():
    got = curve(OneCycle(warmup=0.3))
    up = 12

    def formula(t):
        between = lambda a, b, x: b + (a - b) * (1 + math.cos(math.pi * x)) / 2
        if t < up:
            return between(PEAK / 25, PEAK, t / up)
        return between(PEAK, PEAK / 25e4, (t - up) / (TOTAL - up))

    np.testing.assert_allclose(got, [formula(t) for t in range(TOTAL)], rtol=1e-5)
    assert got[0] == pytest.approx(PEAK / 25) and got.argmax() == up


@pytest.mark.parametrize("kind", [SlantedTriangular, OneCycle])
def test_a_way_up_is_needed(kind):
    with pytest.raises(UserError, match="above 0"):
        kind(warmup=0)


@pytest.mark.parametrize("kind, share", [(SlantedTriangular, 0.1), (OneCycle, 0.3)])
def test_the_way_up_is_as_long_as_published_unless_told(kind, share):
    assert curve(kind()).argmax() == share * TOTAL


# --- As they were when all were one class -----------------------------------------------------

STORED = json.loads((Path(__file__).parent / "schedules.json").read_text())
LATER = {"rsqrt"}
"""Those that never were in that class: their rates are their formula's, in float64."""
ROUNDED = {"cosine", "one_cycle", "exp_range", "wsd", *LATER}
"""Those with a cosine or a power, which may differ in the last bit from machine to machine."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    schedule: Schedule


def upgraded(old):
    return build(Holder, {"schedule": upgraded_schedule(old)}).schedule


@pytest.mark.parametrize("case", STORED, ids=lambda case: case["schedule"]["name"])
def test_rates_of_old_runs_are_the_same_to_the_last_bit(case):
    """Values that the one class gave, operation by operation, for settings as runs wrote them."""
    config = upgraded(case["schedule"])
    schedule = config.make(case["peak"], case["total_steps"], case["tokens_per_step"])
    got = np.broadcast_to(np.float32(schedule(jnp.arange(0, 100, 4))), 25)
    want = np.frombuffer(bytes.fromhex(case["rates"]), "<f4")
    np.testing.assert_array_max_ulp(got, want, 4 if config.name in ROUNDED else 0)


def test_stored_rates_are_of_every_schedule():
    assert {case["schedule"]["name"] for case in STORED} == set(NAMES)


NAMES = {choice_name(cls): cls for cls in members(Schedule)}
OLD = {
    "unit": "tokens",
    "warmup": 0.25,
    "decay": 7.0,
    "decay_shape": "sqrt",
    "floor": 0.5,
    "half_cycle": 9.0,
    "gamma": 0.5,
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LATER])
def test_what_an_old_schedule_never_read_is_dropped_and_the_rest_kept(name):
    old = {"name": name, **OLD}
    new = upgraded_schedule(old)
    assert to_dict(upgraded(old)) == new and new.items() <= old.items()
    assert new.keys() == {field.name for field in dataclasses.fields(NAMES[name])}
    assert upgraded_schedule(new) == new and old.keys() == {"name", *OLD}


def test_what_was_never_a_setting_stays_to_be_refused():
    assert upgraded_schedule({"name": "linear", "warmpu": 1}) == {"name": "linear", "warmpu": 1}
    assert upgraded_schedule({"name": "mine", "decay": 1}) == {"name": "mine", "decay": 1}
    assert upgraded_schedule({"warmup": 1, "gamma": 1}) == {"warmup": 1}
    assert upgraded_schedule({"name": {"x": 1}}) == {"name": {"x": 1}}  # refused where it is read
