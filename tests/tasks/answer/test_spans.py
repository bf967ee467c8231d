"""Windows put together: what a question's answer is, and how sure."""

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.tasks.answer.questions import Question
from jaxssl.tasks.answer.spans import NOTHING_FOUND, answered, join_windows, words
from jaxssl.tasks.answer.windows import Window

CONTEXT = "red cat, red  dog"
SPANS = np.array([[0, 3], [4, 7], [7, 8], [9, 12], [14, 14], [14, 17]])
"""Of the tokens: red, cat, a comma, red, a token of spaces, dog."""


def windows_of(name="q", begins=(0, 3), first=2, count=None):
    question = Question(name, "what?", CONTEXT, None, "here")
    return [Window(question, SPANS, count or len(begins), b, first, None) for b in begins]


def predicted(*rows, null=(0.0,)):
    """Predictions of rows of (score, first token, last token), by position in the row."""
    longest = max(map(len, rows))
    filled = [[*row, *[(-np.inf, 0, 0)] * (longest - len(row))] for row in rows]
    scores, start, end = (np.array([[each[i] for each in row] for row in filled]) for i in range(3))
    return {
        "score": scores.astype(np.float32),
        "start": start.astype(np.int32),
        "end": end.astype(np.int32),
        "null": np.array(null, np.float32),
    }


def test_the_best_span_of_all_windows_is_in_the_words_of_the_context():
    predictions = predicted(
        [(2.0, 2, 3), (1.0, 3, 3)],  # tokens 0-1 and 1
        [(5.0, 2, 4), (4.0, 3, 4)],  # tokens 3-5, and 4-5 that begin with a space
        null=(3.0, 1.5),
    )
    found, left_out = join_windows(predictions, windows_of(), n_best=9)
    assert left_out == 0 and len(found) == 1
    want = [("red  dog", 9, 5.0), ("dog", 14, 4.0), ("red cat", 0, 2.0), ("cat", 4, 1.0)]
    assert [tuple(c) for c in found[0].candidates] == want
    assert found[0].null == 1.5 and found[0].no_answer == 1.5 - 5.0
    assert [len(join_windows(predictions, windows_of(), n)[0][0].candidates) for n in (1, 3)] == [
        1,
        3,
    ]


def test_of_equal_texts_the_better_one_is_kept():
    predictions = predicted([(1.0, 2, 2), (3.0, 5, 5), (2.0, 3, 3)])
    found, _ = join_windows(predictions, windows_of(begins=(0,)), n_best=9)
    assert [tuple(c) for c in found[0].candidates] == [("red", 9, 3.0), ("cat", 4, 2.0)]


@pytest.mark.parametrize("rows", [[(-np.inf, 2, 2)], [(np.nan, 2, 2)], [(5.0, 6, 6)]], ids=str)
def test_without_any_span_the_answer_is_empty(rows):
    """The last is a span of spaces alone."""
    predictions = predicted(rows, null=(2.5,))
    found, _ = join_windows(predictions, windows_of(begins=(0,)), n_best=9)
    assert found[0].candidates == [] and found[0].no_answer == NOTHING_FOUND
    for nullable in (False, True):
        row = answered(found[0], nullable, 0.0)
        assert (row["answer"], row["start"], row["score"], row["probability"]) == ("", None, 2.5, 1)


def test_a_question_without_all_its_windows_is_left_out():
    whole, part = windows_of("a"), windows_of("b", begins=(0,), count=2)
    predictions = predicted([(1.0, 2, 2)], [(2.0, 2, 2)], [(3.0, 2, 2)], null=(0, 0, 0))
    found, left_out = join_windows(predictions, [*whole, *part], n_best=9)
    assert [each.question.id for each in found] == ["a"] and left_out == 1
    with pytest.raises(UserError, match="(?s)no question.*evaluation.batches"):
        join_windows(predicted([(1.0, 2, 2)]), part, n_best=9)


@pytest.mark.parametrize(
    ("threshold", "answer", "start"), [(-2.0, "", None), (-1.0, "cat", 4), (3.0, "cat", 4)]
)
def test_no_answer_is_given_where_it_is_ahead_by_more_than_the_threshold(threshold, answer, start):
    predictions = predicted([(2.0, 3, 3), (0.5, 2, 2)], null=(1.0,))
    found, _ = join_windows(predictions, windows_of(begins=(0,)), n_best=9)
    row = answered(found[0], True, threshold)
    shares = np.exp([2.0, 1.0, 0.5]) / np.exp([2.0, 1.0, 0.5]).sum()
    assert (row["id"], row["answer"], row["start"]) == ("q", answer, start)
    assert row["no_answer_score"] == -1.0
    assert [each["answer"] for each in row["n_best"]] == ["cat", "", "red"]
    np.testing.assert_allclose([e["probability"] for e in row["n_best"]], shares, atol=1e-6)
    assert row["probability"] == row["n_best"][1 if answer == "" else 0]["probability"]
    never = answered(found[0], False, 0.0)
    assert [e["answer"] for e in never["n_best"]] == ["cat", "red"] and never["answer"] == "cat"
    assert "no_answer_score" not in never


def test_accents_that_no_token_has_come_back():
    context = "the cafe\u0301 was \u2764\ufe0f"
    assert words(context, 4, 8) == ("cafe\u0301", 4)
    assert words(context, 14, 15) == ("\u2764\ufe0f", 14)
    assert words(context, 3, 10) == ("cafe\u0301", 4)
    assert words("a \u0301b", 2, 2) == ("", 2)
