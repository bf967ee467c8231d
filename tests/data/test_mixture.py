"""Which batches a step takes: counts against shares, and what does not depend on a run's length."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxssl.core.errors import UserError
from jaxssl.core.ramp import Ramp
from jaxssl.data.mixture import BLOCK, ONE, ByTurns, Jointly, steps_until

NAMES = "abcde"
STEPS = 5 * BLOCK + 7
FEW = settings(max_examples=40, deadline=None)
weights_of = st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any)
seeds = st.integers(0, 2**32 - 1)


def named(weights):
    return dict(zip(NAMES, map(float, weights)))


def turns(weights, seed=0, **options):
    weights = weights if isinstance(weights, dict) else named(weights)
    rows = options.pop("rows", dict.fromkeys(weights, (100, 1)))
    return ByTurns(seed=seed, **options).draws(weights, rows)


@FEW
@given(weights_of, seeds)
def test_each_step_takes_one_stream_and_each_stream_its_own_numbers_in_order(weights, seed):
    draws, seen = turns(weights, seed), dict.fromkeys(named(weights), 0)
    for number in range(STEPS):
        assert draws.before(number) == seen
        ((stream, index),) = draws.at(number).items()
        assert index == seen[stream]
        seen[stream] += 1


@FEW
@given(weights_of, seeds, st.lists(st.integers(0, STEPS), min_size=1, max_size=5))
def test_a_draw_does_not_depend_on_what_was_asked_before(weights, seed, numbers):
    """So a run that resumes, or is longer, or looks ahead, draws the same."""
    whole = turns(weights, seed)
    want = [whole.at(number) for number in range(STEPS + 1)]
    for number in numbers:
        fresh = turns(weights, seed)
        assert (fresh.at(number), fresh.before(number)) == (want[number], whole.before(number))


@FEW
@given(weights_of, seeds)
def test_after_each_block_a_stream_is_less_than_two_batches_from_its_share(weights, seed):
    draws, total = turns(weights, seed), sum(weights)
    for block in range(1, 30):
        counts = draws.before(block * BLOCK)
        for name, weight in named(weights).items():
            assert abs(counts[name] - Fraction(int(weight), total) * block * BLOCK) < 2
            assert weight or not counts[name], "a share of 0 draws nothing"


@FEW
@given(st.integers(1, 6), st.integers(1, 400), seeds)
def test_a_ramp_changes_nothing_before_the_steps_it_changes(blocks, end, seed):
    """Points that are added after a step leave the draws before its block as they were."""
    start = blocks * BLOCK
    plain = turns({"a": 1.0, "b": 2.0}, seed)
    moved = Ramp(points=((0, 2.0), (start, 2.0), (start + end, 9.0)))
    ramped = turns({"a": 1.0, "b": moved}, seed)
    for number in range(start + BLOCK):
        assert ramped.at(number) == plain.at(number)


def test_the_share_of_a_ramp_is_that_of_the_first_step_of_a_block():
    ramp = Ramp(points=((0, 0.0), (4 * BLOCK, 4.0)))
    draws = turns({"a": ramp, "b": 1.0})
    counts = [draws.before(block * BLOCK)["a"] for block in range(6)]
    assert counts[1] == 0, "nothing while the share is 0"
    owed, got = 0.0, np.diff(counts)
    for block, count in enumerate(got):
        share = min(block, 4.0)
        owed += BLOCK * share / (share + 1)
        assert abs(counts[block + 1] - owed) < 1, (block, count)


@pytest.mark.parametrize("limit, temperature", [(None, 1.0), (500, 1.0), (None, 2.0), (200, 4.0)])
def test_shares_by_examples_are_the_published_formula(limit, temperature):
    """Raffel et al. (2020), section 3.5.2: min(rows, limit) to the power of 1 / temperature."""
    rows = {"a": (1000, 32), "b": (100, 8), "c": (10, 8)}
    options = {"shares": "examples", "limit": limit, "temperature": temperature}
    draws = turns(dict.fromkeys(rows, 1.0), rows=rows, **options)
    sizes = {k: min(n, limit or n) ** (1 / temperature) / b for k, (n, b) in rows.items()}
    steps = 200 * BLOCK
    for name, count in draws.before(steps).items():
        assert count == pytest.approx(steps * sizes[name] / sum(sizes.values()), abs=1)


sizes_of = st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 512)), min_size=2, max_size=5)


@FEW
@given(sizes_of, st.integers(1, 10**9), st.floats(1e-3, 1e3))
def test_rows_are_mixed_as_the_paper_says(sizes, limit, temperature):
    """In its words: a rate is min(e, K) over their sum, raised to 1 / T and normalised again. Of
    rows, that is: a step takes a batch of them."""
    rows = dict(zip(NAMES, sizes))
    options = {"shares": "examples", "limit": limit, "temperature": temperature}
    shares = turns(dict.fromkeys(rows, 1.0), rows=rows, **options).shares(0)
    counted = np.array([min(n, limit) for n, _ in sizes], np.float64)
    logs = np.log(counted / counted.sum()) / temperature
    steps = np.exp(logs - logs.max()) / [size for _, size in sizes]
    np.testing.assert_allclose(list(shares.values()), steps / steps.sum(), atol=2 / ONE)
    assert sum(shares.values()) == 1


def test_the_ends_of_a_temperature_and_of_a_limit():
    """Towards 0 the largest has all turns; towards infinity, or with a limit of 1, all have as
    many; weights are factors."""
    rows = {"a": (10**6, 4), "b": (500, 4)}
    weights = dict.fromkeys(rows, 1.0)

    def shares(weights=weights, **options):
        return turns(weights, rows=rows, shares="examples", **options).shares(0)

    assert shares(temperature=1e-3) == {"a": 1.0, "b": 0.0}
    even = {"a": 0.5, "b": 0.5}
    assert shares(temperature=1e9) == even == shares(limit=1) == shares(limit=500)
    assert shares({"a": 1.0, "b": 3.0}, limit=1) == {"a": 0.25, "b": 0.75}


def test_shares_are_those_of_the_block():
    ramp = Ramp(points=((0, 1.0), (2 * BLOCK, 3.0)))
    draws = turns({"a": ramp, "b": 1.0})
    assert draws.shares(0) == draws.shares(BLOCK - 1) == {"a": 0.5, "b": 0.5}
    assert draws.shares(2 * BLOCK) == {"a": 0.75, "b": 0.25}
    assert Jointly().draws(named([1, 2]), {}).shares(0) == {}


@FEW
@given(weights_of, seeds, st.integers(1, 300))
def test_steps_until_a_stream_had_its_batches_are_found_as_by_counting(weights, seed, batches):
    draws = turns(weights, seed)
    name = next(name for name, weight in named(weights).items() if weight)
    steps = steps_until(draws, name, batches)
    assert draws.before(steps)[name] == batches > draws.before(steps - 1)[name]


def test_a_share_that_ends_at_0_never_gets_there():
    draws = turns({"a": Ramp(points=((0, 1.0), (BLOCK, 0.0))), "b": 1.0})
    with pytest.raises(UserError, match="never gets so many") as error:
        steps_until(draws, "a", 1000)
    assert error.value.where == "streams.a.weight"


def test_jointly_every_step_takes_all():
    draws = Jointly().draws(named([1, 2]), {})
    assert draws.at(7) == draws.before(7) == {"a": 7, "b": 7}


def test_no_stream_with_a_share_is_refused():
    draws = turns({"a": Ramp(points=((0, 1.0), (BLOCK, 0.0)))})
    draws.at(BLOCK - 1)
    with pytest.raises(UserError, match="no stream has a turn"):
        draws.at(BLOCK)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"limit": 10}, "neither limit nor temperature"),
        ({"temperature": 2.0}, "neither limit nor temperature"),
        ({"shares": "examples", "temperature": 0.0}, "above 0|greater than 0"),
        ({"shares": "examples", "limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, match):
    with pytest.raises(UserError, match=match):
        ByTurns(**options)
