"""BLEU from tallies against sacreBLEU's own."""

import numpy as np
import pytest
import sacrebleu

from jaxssl.scores.translation import bleu_of, bleu_tallies, signatures, translation_scores

REFERENCES = ["the cat sat on the mat .", "a dog sees two birds", "who is there ?", "no"]
WRITTEN = {
    "close": ["the cat sat on a mat .", "a dog sees a bird", "who is there ?", "no"],
    "short": ["the cat sat on the", "a dog", "who", "no"],
    "few right": ["the mat is on it", "birds see", "there who", "yes"],
    "nothing right": ["x y z w v", "q r s t", "u i o p", "l"],
}


@pytest.mark.parametrize("case", WRITTEN)
def test_bleu_of_summed_tallies_is_sacrebleus(case):
    tallies = bleu_tallies(WRITTEN[case], REFERENCES)
    assert tallies.shape == (4, 10)
    theirs = sacrebleu.corpus_bleu(WRITTEN[case], [REFERENCES]).score
    assert bleu_of(tallies.sum(0)) == pytest.approx(theirs, abs=1e-9)
    some = tallies[:2].sum(0)
    theirs = sacrebleu.corpus_bleu(WRITTEN[case][:2], [REFERENCES[:2]]).score
    assert bleu_of(np.stack([some, some]))[1] == pytest.approx(theirs, abs=1e-9)


def test_scores_come_with_the_signatures_that_made_them():
    found = translation_scores(WRITTEN["close"], REFERENCES)
    assert 0 < found["bleu"] < 100 and 0 < found["chrf"] < 100
    told = signatures()
    assert "tok:13a" in told["bleu"] and "nc:6" in told["chrf"]
