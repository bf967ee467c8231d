"""A weighted sum of objectives over one shared forward pass."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.models.model import Model
from jaxssl.objectives.base import total_loss
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.train.step import make_loss

MASKED, PAIRS = MaskedLm(rate=0.3, slots=6), NextSentence()
BOTH = Combine(terms=(Term(objective=MASKED, weight=0.7), Term(objective=PAIRS, weight=2.5)))
MODEL = Model(tiny.bert(), BOTH.heads)
PARAMS = tiny.random_params(MODEL)
BATCH = {
    **tiny.rows([[d] for d in tiny.random_documents([9, 12, 4, 16])]),
    "next_sentence": np.array([0, 1, 1, 0], np.int32),
}


@functools.partial(jax.jit, static_argnums=0)
def run(objective, batch):
    corrupted = objective.corrupt(batch, 3, tiny.WORDS)
    hidden = MODEL.encode(PARAMS, corrupted)
    sums = objective.sums(MODEL, PARAMS, hidden, corrupted)
    return total_loss(objective, sums.losses, objective.weights(corrupted)), sums, corrupted


def test_the_total_is_the_weighted_sum_of_the_terms():
    total, sums, corrupted = run(BOTH, BATCH)
    masked, masked_scores, masked_batch = run(MASKED, BATCH)
    # The second term sees the batch as the first one changed it: one forward pass for both.
    pairs, pair_scores, _ = run(PAIRS, masked_batch)
    assert float(total) == pytest.approx(0.7 * float(masked) + 2.5 * float(pairs), rel=1e-5)
    assert sums.metrics.keys() == masked_scores.metrics.keys() | pair_scores.metrics.keys()
    assert np.array_equal(corrupted["tokens"], masked_batch["tokens"])


def test_the_body_is_run_once():
    def loops(objective, batch):
        jaxpr = jax.make_jaxpr(lambda p: make_loss(MODEL, objective)(p, batch, None)[0])(PARAMS)
        return str(jaxpr).count(" scan[")

    batch = run(MASKED, BATCH)[2]
    assert loops(BOTH, batch) == loops(MASKED, batch)


def test_heads_coefficients_and_checks_are_those_of_the_terms():
    assert BOTH.heads == ("masked_lm", "next_sentence")
    assert BOTH.coefficients == {"masked_lm": 0.7, "next_sentence": 2.5}
    with pytest.raises(UserError, match="sentence pairs"):
        BOTH.check_rows({k: v for k, v in BATCH.items() if k != "next_sentence"})
    with pytest.raises(UserError, match="pooler"):
        BOTH.check(tiny.bert(pooler=False), tiny.WORDS)


@pytest.mark.parametrize("terms", [(), (Term(objective=PAIRS), Term(objective=PAIRS))])
def test_no_term_or_a_repeated_one_is_refused(terms):
    with pytest.raises(UserError, match="different objectives"):
        Combine(terms=terms)
