import itertools

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.scores import bootstrap
from jaxssl.scores.bootstrap import bootstrap_difference


def mean(tallies):
    return tallies[..., 0] / tallies[..., 1]


def of_scores(scores):
    """Scores [E] of one run as tallies."""
    scores = np.asarray(scores, np.float64)
    return np.stack([scores, np.ones_like(scores)], axis=-1)[None]


def paired_bootstrap(a, b, samples, seed, **options):
    return bootstrap_difference(mean, of_scores(a), of_scores(b), samples, seed, **options)


def test_interval_is_that_of_all_resamples_of_few_seeds():
    a, b = np.array([0.62, 0.66, 0.61, 0.70, 0.64]), np.array([0.60, 0.61, 0.62, 0.63, 0.60])
    means = np.array([np.mean(draw) for draw in itertools.product(a - b, repeat=5)])
    difference, low, high = paired_bootstrap(a, b, 40_000, seed=0)
    assert difference == pytest.approx(np.mean(a) - np.mean(b))
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-3)


def test_interval_agrees_with_scipy():
    from scipy import stats

    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 200), rng.normal(0, 1, 200)
    expected = stats.bootstrap(
        (a - b,), np.mean, n_resamples=20_000, method="percentile", confidence_level=0.9, rng=rng
    ).confidence_interval
    _, low, high = paired_bootstrap(a, b, 20_000, seed=3, confidence=0.9)
    assert [low, high] == pytest.approx(list(expected), abs=0.01)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(300):
        a, b = rng.normal(0.5, 1, 60), rng.normal(0, 1, 60)
        _, low, high = paired_bootstrap(a, b, 400, seed)
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_pairing_removes_what_both_systems_find_hard():
    hard = np.random.default_rng(0).normal(0, 10, 100)
    _, low, high = paired_bootstrap(hard + 0.5, hard, 500, seed=0)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_the_seed_decides_and_the_order_of_systems_turns_the_sign():
    a, b = np.random.default_rng(0).random((2, 50))
    first = paired_bootstrap(a, b, 200, seed=5)
    assert first == paired_bootstrap(a, b, 200, seed=5) != paired_bootstrap(a, b, 200, seed=6)
    turned = paired_bootstrap(b, a, 200, seed=5)
    assert turned == pytest.approx((-first[0], -first[2], -first[1]))


def test_blocks_do_not_change_how_many_samples_there_are(monkeypatch):
    a = np.arange(10.0)
    whole = paired_bootstrap(a, a * 0, 101, seed=0)
    monkeypatch.setattr(bootstrap, "BLOCK", 70)
    assert paired_bootstrap(a, a * 0, 101, seed=0) == whole


@pytest.mark.parametrize(
    "a, b, options, said",
    [
        ([], [], {}, "no examples"),
        ([1.0], [1.0, 2.0], {}, "differ in their number"),
        ([float("nan")], [1.0], {}, "not finite"),
        ([1.0], [1.0], {"samples": 0}, "samples"),
        ([1.0], [1.0], {"confidence": 95}, "confidence"),
    ],
)
def test_what_cannot_be_resampled_is_refused(a, b, options, said):
    with pytest.raises(UserError) as caught:
        paired_bootstrap(np.array(a), np.array(b), **{"samples": 10, "seed": 0, **options})
    assert said in str(caught.value)


def f1(tallies):
    return 2 * tallies[..., 0] / (tallies[..., 1] + tallies[..., 2])


def test_a_score_of_counts_is_resampled_as_a_whole_and_not_as_a_mean():
    """F1 over few examples: against a plain loop that counts again."""
    rng = np.random.default_rng(2)
    a, b = (
        np.stack([rng.integers(0, 2, 40), rng.integers(1, 4, 40), rng.integers(1, 4, 40)], -1)
        for _ in range(2)
    )
    plain = []
    for _ in range(8000):
        draw = rng.integers(40, size=40)
        plain.append(f1(a[draw].sum(0)) - f1(b[draw].sum(0)))
    difference, low, high = bootstrap_difference(f1, a[None], b[None], 8000, seed=0)
    assert difference == f1(a.sum(0)) - f1(b.sum(0))
    assert [low, high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.01)


def test_paired_seeds_share_what_a_seed_brings():
    luck = np.random.default_rng(0).normal(0, 5, 8)
    b = np.stack([of_scores(np.full(30, x))[0] for x in luck])
    a = np.stack([of_scores(np.full(30, x + 1))[0] for x in luck])
    assert bootstrap_difference(mean, a, b, 300, seed=0)[1:] == pytest.approx((1.0, 1.0))
    _, low, high = bootstrap_difference(mean, a, b, 300, seed=0, paired=False)
    assert low < -1 < 3 < high
    with pytest.raises(UserError, match="runs"):
        bootstrap_difference(mean, a, b[:3], 10, seed=0)
