"""Tallies: summed over the examples, they give the very metric that is reported."""

import numpy as np
import pytest

from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.task import Reference, Relate

RNG = np.random.default_rng(0)
LABELS = ("a", "b", "c")


def classified():
    return Classify(labels=LABELS), {"logits": RNG.normal(size=(50, 3))}, RNG.integers(0, 3, 50)


def several():
    task = Classify(labels=LABELS, multi_label=True)
    return (
        task,
        {"logits": RNG.normal(size=(50, 3))},
        RNG.integers(0, 2, (50, 3)).astype(np.float32),
    )


def regressed():
    x = RNG.normal(size=50)
    return Regress(clip=(-1.0, 1.0)), {"value": x}, (x + RNG.normal(size=50)).astype(np.float32)


def related():
    task = Relate(labels=("yes", "no", "other"), negative="other")
    given = [Reference(i, 0, int(n)) for i, n in enumerate(RNG.integers(0, 3, 50))]
    return task, {"logits": RNG.normal(size=(50, 3))}, given


@pytest.mark.parametrize("make", [classified, several, regressed, related])
def test_summed_tallies_give_the_metric_that_scores_report(make):
    task, predictions, references = make()
    tallies = task.tallies(predictions, references)
    assert len(tallies) == 50 and tallies.dtype == np.float64
    wanted = task.scores(predictions, references)[task.metric]
    assert float(task.from_tallies(tallies.sum(axis=0))) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("make", [classified, several, related])
def test_the_majority_baseline_says_the_same_of_every_row(make):
    task, _, references = make()
    baseline = task.majority_baseline(references, references)
    chosen = task.outputs(baseline, references)
    assert len(chosen) == 50 and all(row == chosen[0] for row in chosen)


def test_a_constant_guess_correlates_with_nothing():
    task, _, references = regressed()
    tallies = task.tallies(task.majority_baseline(references, references), references)
    assert float(task.from_tallies(tallies.sum(axis=0))) == 0.0
