"""The expected calibration error."""

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.core.registry import members
from jaxssl.scores.base import Score
from jaxssl.scores.calibration import Calibration
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress


def of(shares, references, **options) -> float:
    with np.errstate(divide="ignore"):
        logits = np.log(np.array(shares))
    numbers = Calibration(**options).named_numbers({"logits": logits}, np.array(references))
    assert list(numbers) == ["calibration"]
    return numbers["calibration"]


def test_one_that_is_right_as_often_as_it_says_has_none():
    shares = [[0.75, 0.25]] * 4
    assert of(shares, [0, 0, 0, 1]) == pytest.approx(0)
    assert of(shares, [0, 0, 0, 0]) == pytest.approx(0.25)
    assert of([[1.0, 0.0]] * 2, [1, 1]) == pytest.approx(1)


def test_it_is_the_formula_over_bins():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(3), 200)
    references = rng.integers(0, 3, 200)
    said, right = shares.max(axis=1), shares.argmax(axis=1) == references
    want = 0.0
    for low in np.arange(10) / 10:
        inside = (said > low) & (said <= low + 0.1)
        if inside.any():
            want += inside.mean() * abs(right[inside].mean() - said[inside].mean())
    assert of(shares, references, bins=10) == pytest.approx(want)


def test_it_is_of_tasks_with_one_label_a_row():
    assert Calibration in members(Score)
    task = Classify(labels=("a", "b"), extra_scores=(Calibration(bins=4),))
    found = task.scores({"logits": np.eye(2)}, np.array([0, 1]))
    assert found["accuracy"] == 1 and 0 < found["calibration"] < 1
    assert task.is_lower_better("calibration") and not task.is_lower_better("accuracy")
    for refuses in (
        lambda: Regress(extra_scores=(Calibration(),)),
        lambda: Classify(multi_label=True, extra_scores=(Calibration(),)),
        lambda: Classify(extra_scores=(Calibration(), Calibration(bins=3))),
    ):
        with pytest.raises(UserError) as caught:
            refuses()
        assert caught.value.where == "extra_scores"
