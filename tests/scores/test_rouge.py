"""ROUGE against `rouge_score`, word by word texts and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="the reference scorer")

from jaxssl.scores.rouge import longest_common, mean_rouge, rouge_scores  # noqa: E402

NAMES = ["rouge1", "rouge2", "rougeL"]
THEIRS = scorer.RougeScorer(NAMES, use_stemmer=False)
WORDS = st.lists(st.sampled_from("the cat Sat on a mat, mat. 3 dogs' don't".split()), max_size=12)


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_scores_are_those_of_rouge_score(a, b):
    written, reference = " ".join(a), " ".join(b)
    theirs = THEIRS.score(reference, written)
    for name, value in rouge_scores(written, reference).items():
        assert value == pytest.approx(theirs[name].fmeasure, abs=1e-12), name


def test_the_mean_is_over_texts():
    texts, references = ["the cat", "a dog sits"], ["the cat sat", "dogs"]
    each = [rouge_scores(*both) for both in zip(texts, references)]
    assert mean_rouge(texts, references)["rouge1"] == np.mean([x["rouge1"] for x in each])
    assert each[0]["rouge1"] == pytest.approx(0.8) and each[1]["rouge1"] == 0


def test_the_longest_common_subsequence_of_long_texts():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 5, n).astype(str).tolist() for n in (60, 45))
    table = np.zeros((61, 46), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            same = table[i, j] + 1
            table[i + 1, j + 1] = same if x == y else max(table[i, j + 1], table[i + 1, j])
    assert longest_common(a, b) == table[-1, -1]
