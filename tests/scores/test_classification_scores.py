import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.scores.classification import (
    classification_scores,
    confusion,
    multi_label_scores,
    per_class_report,
)

PUBLISHED = Path(__file__).parent / "published"


def cases(name):
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))["cases"]


def names(count):
    return [f"class {i}" for i in range(count)]


@pytest.mark.parametrize("case", cases("classification"))
def test_scores_of_one_label_are_torchmetrics(case):
    predicted, reference, size = case["predicted"], case["reference"], case["K"]
    scores = classification_scores(np.array(predicted), np.array(reference), names(size))
    for key in ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc"):
        assert scores[key] == pytest.approx(case[key], abs=1e-6), key
    assert confusion(predicted, reference, size).tolist() == case["confusion"]
    rows = per_class_report(predicted, reference, names(size))
    for key, column in zip(("precision", "recall", "f1"), case["per_class"]):
        assert [row[key] for row in rows] == pytest.approx(column, abs=1e-6)
    assert [row["support"] for row in rows] == [reference.count(i) for i in range(size)]
    assert [row["label"] for row in rows] == names(size)


@pytest.mark.parametrize("case", cases("multi_label"))
def test_scores_of_many_labels_are_torchmetrics(case):
    scores = multi_label_scores(np.array(case["predicted"]), np.array(case["reference"]))
    for key in ("micro_f1", "macro_f1", "weighted_f1", "exact_match", "hamming_loss"):
        assert scores[key] == pytest.approx(case[key], abs=1e-6), key


pairs_of_ids = st.integers(2, 5).flatmap(
    lambda size: st.tuples(
        st.just(size),
        st.lists(
            st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)), min_size=1, max_size=30
        ),
    )
)


@settings(deadline=None)  # the first example waits for the import
@given(pairs_of_ids)
def test_scores_of_one_label_are_their_definitions(drawn):
    size, pairs = drawn
    predicted, reference = map(list, zip(*pairs))
    scores = classification_scores(np.array(predicted), np.array(reference), names(size))
    f1 = {
        label: Fraction(
            2 * sum(p == r == label for p, r in pairs),
            predicted.count(label) + reference.count(label),
        )
        for label in {*predicted, *reference}
    }
    weighted = sum(f1[r] for r in reference) / len(pairs)
    assert scores["macro_f1"] == pytest.approx(float(sum(f1.values()) / len(f1)))
    assert scores["weighted_f1"] == pytest.approx(float(weighted))
    assert scores["accuracy"] == scores["micro_f1"]
    assert scores["accuracy"] == pytest.approx(sum(p == r for p, r in pairs) / len(pairs))
    assert scores["mcc"] == pytest.approx(covariance_mcc(predicted, reference, size), abs=1e-9)
    assert ("f1" in scores) == (size == 2)
    if size == 2:
        assert scores["f1"] == pytest.approx(float(f1.get(1, 0)))


def covariance_mcc(predicted, reference, size):
    """Gorodkin's R_K: the correlation of the one-hot tables, 0 where one is constant."""
    x, y = np.eye(size)[predicted], np.eye(size)[reference]
    x, y = x - x.mean(0), y - y.mean(0)
    scale = math.sqrt((x * x).sum() * (y * y).sum())
    return (x * y).sum() / scale if scale else 0.0


@settings(deadline=None)  # the first example waits for the import
@given(pairs_of_ids)
def test_rows_of_the_confusion_matrix_are_the_references(drawn):
    size, pairs = drawn
    predicted, reference = map(list, zip(*pairs))
    counts = confusion(np.array(predicted), np.array(reference), size)
    assert counts.shape == (size, size)
    for i in range(size):
        for j in range(size):
            assert counts[i, j] == pairs.count((j, i))


tables = st.integers(1, 4).flatmap(
    lambda labels: st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=labels, max_size=labels),
        min_size=1,
        max_size=12,
    )
)


@settings(deadline=None)  # the first example waits for the import
@given(tables)
def test_scores_of_many_labels_are_their_definitions(rows):
    both = np.array(rows)
    predicted, reference = both[..., 0], both[..., 1]
    scores = multi_label_scores(predicted, reference)
    label_f1 = [f1_of(predicted[:, k], reference[:, k]) for k in range(predicted.shape[1])]
    row_f1 = [f1_of(p, r) for p, r in zip(predicted, reference)]
    kept = [value for value in label_f1 if value is not None]
    support = reference.sum(0)
    weighted = sum((f or 0) * n for f, n in zip(label_f1, support)) / max(support.sum(), 1)
    assert scores["macro_f1"] == pytest.approx(sum(kept) / len(kept) if kept else 0)
    assert scores["weighted_f1"] == pytest.approx(weighted)
    assert scores["samples_f1"] == pytest.approx(np.mean([1 if f is None else f for f in row_f1]))
    assert scores["micro_f1"] == pytest.approx(f1_of(predicted.ravel(), reference.ravel()) or 0)
    assert scores["exact_match"] == np.mean([(p == r).all() for p, r in zip(predicted, reference)])
    assert scores["hamming_loss"] == pytest.approx(np.mean(predicted != reference))


def f1_of(predicted, reference):
    total = predicted.sum() + reference.sum()
    return 2 * (predicted * reference).sum() / total if total else None


def test_a_constant_prediction_has_no_correlation():
    scores = classification_scores(np.zeros(6, int), np.array([0, 1, 0, 1, 1, 0]), names(2))
    assert scores["mcc"] == 0 and scores["accuracy"] == 0.5 and scores["f1"] == 0


def test_one_class_alone_is_right_without_correlation():
    scores = classification_scores(np.array([0, 0]), np.array([0, 0]), ["only"])
    assert scores["accuracy"] == scores["macro_f1"] == 1 and scores["mcc"] == 0


def test_a_label_that_never_occurs_does_not_lower_the_macro_mean():
    predicted, reference = np.array([0, 1, 1]), np.array([0, 1, 1])
    assert classification_scores(predicted, reference, names(9))["macro_f1"] == 1
    table = np.array([[1, 0, 0], [1, 1, 0]])
    assert multi_label_scores(table, table)["macro_f1"] == 1


def test_no_labels_at_all_score_zero_and_match():
    scores = multi_label_scores(np.zeros((3, 2), int), np.zeros((3, 2), int))
    assert scores["micro_f1"] == scores["macro_f1"] == scores["weighted_f1"] == 0
    assert scores["exact_match"] == scores["samples_f1"] == 1


@pytest.mark.parametrize(
    "predicted, reference, said",
    [
        ([], [], "there are no examples"),
        ([0, 1], [0], "differ in their number"),
        ([0, 3], [0, 1], "predicted[1]"),
        ([0, 1], [0, -100], "reference[1]"),
        ([0.2, 0.9], [0, 1], "not integers"),
        ([[0], [1]], [0, 1], "not a list"),
    ],
)
def test_ids_that_are_none_are_refused(predicted, reference, said):
    for score in (classification_scores, per_class_report):
        with pytest.raises(UserError) as caught:
            score(np.array(predicted), np.array(reference), names(3))
        assert said in str(caught.value)


@pytest.mark.parametrize(
    "predicted, reference, said",
    [
        (np.zeros((0, 2)), np.zeros((0, 2)), "not empty"),
        (np.zeros((2, 2)), np.zeros((3, 2)), "differ in shape"),
        (np.array([[0.3]]), np.array([[1]]), "predicted01[0, 0]"),
        (np.zeros(2), np.zeros(2), "not a table"),
    ],
)
def test_tables_that_are_none_are_refused(predicted, reference, said):
    with pytest.raises(UserError) as caught:
        multi_label_scores(predicted, reference)
    assert said in str(caught.value)
