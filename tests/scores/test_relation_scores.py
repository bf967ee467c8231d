import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.scores.relations import has_directions, relation_scores, semeval_scores

PUBLISHED = Path(__file__).parent / "published"


def cases(name):
    return json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", cases("tacred"))
def test_micro_scores_are_those_of_tacreds_scorer(case):
    scores = relation_scores(case["predicted"], case["reference"], "no_relation")
    found = [scores[key] for key in ("precision", "recall", "f1")]
    assert found == pytest.approx(case["scores"], abs=1e-12)


@pytest.mark.parametrize("case", cases("semeval"))
def test_scores_are_those_that_the_official_scorer_prints(case):
    scores = semeval_scores(case["predicted"], case["reference"])
    for mean in ("macro", "micro"):
        found = [100 * scores[f"{mean}_{key}"] for key in ("precision", "recall", "f1")]
        assert found == pytest.approx(case[mean], abs=0.00501)
    assert 100 * scores["accuracy"] == pytest.approx(case["accuracy"], abs=0.00501)
    printed = {name: row for name, row in case["relations"].items() if name != "_Other"}
    assert scores["relations"].keys() == printed.keys()
    for name, row in scores["relations"].items():
        found = [100 * row[key] for key in ("precision", "recall", "f1")]
        assert found == pytest.approx(printed[name], abs=0.00501)


labels = ["none", "born", "works", "länder"]
pairs_of_relations = st.lists(
    st.tuples(st.sampled_from(labels), st.sampled_from(labels)), min_size=1, max_size=30
)


@given(pairs_of_relations)
def test_micro_scores_are_their_definitions(pairs):
    predicted, reference = map(list, zip(*pairs))
    scores = relation_scores(predicted, reference, "none")
    guessed = [(p, r) for p, r in pairs if p != "none"]
    gold = [(p, r) for p, r in pairs if r != "none"]
    correct = sum(p == r for p, r in guessed)
    assert scores["precision"] == pytest.approx(correct / len(guessed) if guessed else 1)
    assert scores["recall"] == pytest.approx(correct / len(gold) if gold else 0)
    denominator = len(guessed) + len(gold)
    expected = 2 * correct / denominator if denominator else 0
    assert scores["f1"] == pytest.approx(expected if gold else 0)
    for name, row in scores["relations"].items():
        assert row["support"] == reference.count(name)


directed = ["A-B(e1,e2)", "A-B(e2,e1)", "C-D(e1,e2)", "C-D(e2,e1)", "Other"]


@given(st.lists(st.tuples(st.sampled_from(directed), st.sampled_from(directed)), min_size=1))
def test_a_wrong_direction_costs_precision_and_recall(pairs):
    predicted, reference = map(list, zip(*pairs))
    scores = semeval_scores(predicted, reference)
    bare = lambda label: label.partition("(")[0]
    values = []
    for name in sorted({bare(r) for r in reference} - {"Other"}):
        correct = sum(p == r and bare(r) == name for p, r in pairs)
        total = sum(bare(p) == name for p in predicted) + sum(bare(r) == name for r in reference)
        values.append(2 * correct / total)
        assert scores["relations"][name]["f1"] == pytest.approx(values[-1])
    expected = sum(values) / len(values) if values else float("nan")
    assert scores["macro_f1"] == pytest.approx(expected, nan_ok=True)
    wrong = sum(bare(p) == bare(r) and p != r for p, r in pairs)
    assert scores["wrong_direction"] == wrong


def test_predicting_no_relation_has_full_precision_and_no_recall():
    scores = relation_scores(["no"] * 3, ["no", "a", "b"], "no")
    assert (scores["precision"], scores["recall"], scores["f1"]) == (1, 0, 0)


def test_without_a_negative_class_every_label_counts():
    predicted, reference = ["a", "b", "b", "c"], ["a", "b", "c", "c"]
    scores = relation_scores(predicted, reference, None)
    assert scores["precision"] == scores["recall"] == scores["f1"] == 3 / 4
    assert scores["relations"].keys() == {"a", "b", "c"}
    directed = semeval_scores(["A-B(e1,e2)", "A-B(e2,e1)"], ["A-B(e1,e2)"] * 2, None)
    assert (directed["macro_f1"], directed["wrong_direction"]) == (0.5, 1)
    with pytest.raises(UserError, match="no direction"):
        semeval_scores(["Other"], ["A-B(e1,e2)"], None)


def test_labels_have_directions_where_all_but_the_negative_one_do():
    assert has_directions(["A(e1,e2)", "A(e2,e1)", "Other"], "Other")
    assert not has_directions(["A(e1,e2)", "Other"], None)
    assert not has_directions(["A(e1,e2)", "B", "Other"], "Other")
    assert not has_directions(["Other"], "Other")


def test_no_relation_in_the_references_has_no_macro_mean():
    assert math.isnan(semeval_scores(["Other"], ["Other"])["macro_f1"])


@pytest.mark.parametrize("score", [lambda p, r: relation_scores(p, r, "Other"), semeval_scores])
def test_examples_must_pair_up(score):
    with pytest.raises(UserError, match="no examples"):
        score([], [])
    with pytest.raises(UserError, match="differ in their number"):
        score(["Other"], ["Other", "Other"])


def test_a_misspelt_negative_class_is_refused():
    with pytest.raises(UserError, match="no_relation"):
        relation_scores(["no_relation", "a"], ["a", "a"], "no relation")
    with pytest.raises(UserError, match="no direction"):
        semeval_scores(["other"], ["A-B(e1,e2)"])
