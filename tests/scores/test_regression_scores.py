import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.scores.regression import regression_scores

numbers = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=40)


@settings(deadline=None)  # the first example waits for the import
@given(numbers)
def test_scores_are_their_definitions(pairs):
    x, y = np.array(pairs, float).T
    scores = regression_scores(x, y)
    assert scores["mse"] == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / len(pairs))
    assert scores["mae"] == pytest.approx(sum(abs(a - b) for a, b in pairs) / len(pairs))
    for key, expected in (("pearson", pearson(x, y)), ("spearman", pearson(ranks(x), ranks(y)))):
        assert scores[key] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt((x @ x) * (y @ y))
    return x @ y / scale if scale else float("nan")


def ranks(x):
    return np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])


def test_published_example():
    # Anscombe's first quartet (1973): r = 0.816.
    x = [10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5]
    y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68]
    assert regression_scores(np.array(x), np.array(y))["pearson"] == pytest.approx(0.816, abs=5e-4)


def test_correlation_with_a_constant_is_not_defined_and_says_nothing_on_the_side(recwarn):
    scores = regression_scores(np.full(4, 2.5), np.arange(4.0))
    assert math.isnan(scores["pearson"]) and math.isnan(scores["spearman"])
    assert scores["mae"] == 1.25
    assert math.isnan(regression_scores(np.array([1.0]), np.array([3.0]))["pearson"])
    assert not recwarn.list


def test_half_precision_is_widened_before_it_overflows():
    big = np.array([300.0, -300.0, 200.0], np.float16)
    assert regression_scores(big, np.zeros(3, np.float16))["mse"] == pytest.approx(220000 / 3)


@pytest.mark.parametrize(
    "predicted, reference, said",
    [
        ([], [], "there are no examples"),
        ([1.0], [1.0, 2.0], "differ in their number"),
        ([1.0, float("nan")], [1.0, 2.0], "predicted[1]"),
        ([1.0, 2.0], [float("inf"), 2.0], "reference[0]"),
        (["1", "2"], [1.0, 2.0], "not a list of numbers"),
    ],
)
def test_what_is_not_numbers_is_refused(predicted, reference, said):
    with pytest.raises(UserError) as caught:
        regression_scores(np.array(predicted), np.array(reference))
    assert said in str(caught.value)
