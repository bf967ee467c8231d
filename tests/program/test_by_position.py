"""The loss by position: each predicted token counts where it stands in its document."""

import jax
import numpy as np
import pytest
import tiny

from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.program.by_position import language_term, make_position_step

EDGES = (0, 3, 6, 7, 12)


def batch():
    """Two rows: documents of 7 and 3 tokens, and one of 10."""
    a, b, c = tiny.random_documents([7, 3, 10])
    return tiny.rows([[a, b], [c]], length=12)


def log_probabilities(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def taken(objective, model, params, rows):
    step = make_position_step(model, objective, tiny.WORDS, EDGES, seed=0)
    return jax.device_get(jax.jit(step)(params, rows))


def test_a_token_that_follows_others_counts_at_its_own_place():
    objective = CausalLm()
    model, rows = Model(tiny.gpt2(), objective.heads), batch()
    params = tiny.random_params(model)
    logits = model.head(params, "causal_lm", model.encode(params, rows, None))
    nats, tokens = np.zeros(4), np.zeros(4)
    for row, scores in enumerate(log_probabilities(logits)):
        for place in range(1, 12):
            segments = rows["segment_ids"][row]
            if segments[place] and segments[place] == segments[place - 1]:
                bucket = np.searchsorted(EDGES, rows["positions"][row, place], side="right") - 1
                nats[bucket] -= scores[place - 1, rows["tokens"][row, place]]
                tokens[bucket] += 1
    found = taken(objective, model, params, rows)
    np.testing.assert_array_equal(found["tokens"], tokens)
    np.testing.assert_allclose(found["nats"], nats, rtol=1e-4)
    assert tokens.tolist() == [6, 6, 2, 3]


def test_a_masked_token_counts_where_it_is_masked():
    objective = MaskedLm(rate=0.5, slots=8)
    model, rows = Model(tiny.bert(), objective.heads), batch()
    params = tiny.random_params(model)
    corrupted = tiny.corrupted(objective, rows)
    hidden = np.asarray(model.encode(params, corrupted, None))
    places, weights = (np.asarray(corrupted[f"mask_{x}"]) for x in ("positions", "weights"))
    scores = model.head(params, "masked_lm", np.take_along_axis(hidden, places[..., None], axis=1))
    nats, tokens = np.zeros(4), np.zeros(4)
    for row, slot in zip(*np.nonzero(weights)):
        position = rows["positions"][row, places[row, slot]]
        bucket = np.searchsorted(EDGES, position, side="right") - 1
        label = corrupted["mask_labels"][row, slot]
        nats[bucket] -= log_probabilities(scores)[row, slot, label]
        tokens[bucket] += 1
    found = taken(objective, model, params, rows)
    np.testing.assert_array_equal(found["tokens"], tokens)
    np.testing.assert_allclose(found["nats"], nats, rtol=1e-4)
    assert tokens.sum() >= 9


@pytest.mark.parametrize("first", [True, False])
def test_of_a_combination_it_is_the_language_model(first):
    terms = [Term(objective=MaskedLm()), Term(objective=NextSentence())]
    made = language_term(Combine(terms=tuple(terms if first else terms[::-1])))
    assert made == (MaskedLm(), 0 if first else 1)
    assert language_term(NextSentence()) is None
