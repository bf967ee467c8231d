import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.scores.squad import (
    best_threshold,
    exact_match,
    normalize_answer,
    squad1_scores,
    squad_scores,
    token_f1,
)

PUBLISHED = Path(__file__).parent / "published" / "squad.json"
CASES = json.loads(PUBLISHED.read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_the_script_of_squad_2(case):
    given = case["predictions"], case["references"]
    assert squad_scores(*given) == pytest.approx(case["plain"])
    probability = case["no_answer_probability"]
    scores = squad_scores(*given, probability, threshold=0.5)
    assert scores == pytest.approx(case["threshold_0.5"])


def test_scores_are_those_of_the_script_of_squad_1():
    case = next(case for case in CASES if "squad1" in case)
    assert squad1_scores(case["predictions"], case["references"]) == pytest.approx(case["squad1"])
    case = next(case for case in CASES if "squad1_answerable" in case)
    references = {key: answers for key, answers in case["references"].items() if answers}
    predictions = {key: case["predictions"][key] for key in references}
    assert squad1_scores(predictions, references) == pytest.approx(case["squad1_answerable"])


@pytest.mark.parametrize(
    "text, normalised",
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("  a\tcat \n an  apple ", "cat apple"),
        ("the-end", "theend"),
        ("theatre, Ana", "theatre ana"),
        ("U.S. $5", "us 5"),
        ("The", ""),
        ("...", ""),
        ("Zürich “A”", "zürich “ ”"),
        ("北京。", "北京。"),
        ("l'été à la mer", "lété à la mer"),
    ],
)
def test_answers_are_normalised(text, normalised):
    assert normalize_answer(text) == normalised
    assert normalize_answer(normalised) == normalised


@pytest.mark.parametrize(
    "prediction, gold, exact, f1",
    [
        ("the Eiffel Tower", "Eiffel tower.", 1, 1),
        ("Tower", "Eiffel Tower", 0, 2 / 3),
        ("no no no", "no no yes", 0, 2 / 3),  # as multisets: two of three words on either side
        ("Paris", "London", 0, 0),
        ("", "", 1, 1),
        ("the", "", 1, 1),
        ("", "Paris", 0, 0),
        ("a b c d", "b c", 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
    ],
)
def test_one_answer_against_one_gold_answer(prediction, gold, exact, f1):
    assert exact_match(prediction, gold) == exact
    assert token_f1(prediction, gold) == token_f1(gold, prediction) == pytest.approx(f1)


def test_the_best_of_several_gold_answers_counts():
    scores = squad_scores({"q": "blue whale"}, {"q": ["a whale", "The Blue Whale", "fish"]})
    assert scores["exact"] == scores["f1"] == 100


def test_answers_of_articles_alone_score_as_each_script_has_them():
    predictions, references = {"q": "a"}, {"q": ["The"]}
    assert squad1_scores(predictions, references) == {"exact_match": 100, "f1": 0}
    scores = squad_scores(predictions, references)
    assert (scores["HasAns_exact"], scores["HasAns_f1"]) == (100, 100)


def test_only_the_groups_that_there_are_are_told():
    unanswerable = squad_scores({"q": ""}, {"q": []})
    assert unanswerable["NoAns_exact"] == 100 and "HasAns_exact" not in unanswerable
    assert "NoAns_exact" not in squad_scores({"q": ""}, {"q": ["x"]})


questions = st.lists(
    st.tuples(
        st.booleans(),  # answerable
        st.sampled_from(["right", "half right", "", "the"]),
        # Few values, so that questions share them; some are not positive.
        st.sampled_from([-1.5, 0.0, 0.25, 0.5, 0.75, 1.0]),
    ),
    min_size=1,
    max_size=12,
)


@given(questions)
def test_the_best_threshold_is_the_best_and_reaches_its_score(drawn):
    references = {f"q{i}": ["right"] if a else [] for i, (a, _, _) in enumerate(drawn)}
    predictions = {f"q{i}": text for i, (_, text, _) in enumerate(drawn)}
    probability = {f"q{i}": p for i, (_, _, p) in enumerate(drawn)}
    scores = squad_scores(predictions, references, probability)
    at = lambda threshold: squad_scores(predictions, references, probability, threshold=threshold)
    tried = [at(threshold) for threshold in (-2.0, -1.5, 0.0, 0.25, 0.5, 0.75, 1.0)]
    for name in ("exact", "f1"):
        assert scores[f"best_{name}"] == pytest.approx(max(each[name] for each in tried))
        assert at(scores[f"best_{name}_thresh"])[name] == pytest.approx(scores[f"best_{name}"])


def test_the_lowest_of_equally_good_thresholds_is_told():
    probability = np.array([0.1, 0.2, 0.9])
    answerable = np.array([True, True, False])
    assert best_threshold(np.array([1.0, 0.0, 0.0]), probability, answerable) == (2 / 3, 0.1)
    assert best_threshold(np.array([0.0, 0.0, 0.0]), probability, answerable) == (1 / 3, 0.0)


def test_questions_of_one_probability_are_answered_together():
    # Cutting between them, which no threshold does, would score 1.
    scores, probability = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert best_threshold(scores, probability, np.array([True, False])) == (0.5, 0.0)


@pytest.mark.parametrize("score", [squad1_scores, squad_scores])
@pytest.mark.parametrize(
    "predictions, references, said",
    [
        ({}, {}, "no questions"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, "none for 'b'"),
        ({"a": "x", "z": "y"}, {"a": ["x"]}, "one for 'z'"),
    ],
)
def test_questions_and_predictions_must_pair_up(score, predictions, references, said):
    with pytest.raises(UserError) as caught:
        score(predictions, references)
    assert said in str(caught.value)


def test_what_a_script_cannot_score_is_refused():
    with pytest.raises(UserError, match="no gold answer"):
        squad1_scores({"a": ""}, {"a": []})
    with pytest.raises(UserError, match="not finite"):
        squad_scores({"a": ""}, {"a": []}, {"a": float("nan")})
    with pytest.raises(UserError, match="no_answer_probability"):
        squad_scores({"a": ""}, {"a": []}, {})
