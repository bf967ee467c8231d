"""Causal language modelling: what is predicted from what, and what is not."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model
from jaxssl.objectives.base import total_loss
from jaxssl.objectives.causal_lm import CausalLm

LENGTHS = (7, 5, 1, 3, 9)
DOCUMENTS = tiny.random_documents(LENGTHS)
BATCH = tiny.rows([DOCUMENTS[:3], DOCUMENTS[3:]], length=16, count=3)


def test_each_token_is_predicted_by_the_one_before_it_in_its_document():
    out = jax.tree.map(np.asarray, tiny.corrupted(CausalLm(), BATCH, 0, tiny.WORDS))
    predicted = []
    for tokens, targets, weights, segments in zip(
        out["tokens"], out["next_tokens"], out["next_weights"], out["segment_ids"]
    ):
        for t in np.flatnonzero(weights):
            assert segments[t] == segments[t + 1] > 0
            predicted.append((tokens[t], targets[t]))
    want = [pair for d in DOCUMENTS for pair in zip(d, d[1:])]
    assert predicted == want, "first tokens, padding and row ends have no loss"


def test_a_full_row_has_no_loss_at_its_last_position():
    full = tiny.rows([tiny.random_documents([16])])
    weights = tiny.corrupted(CausalLm(), full, 0, tiny.WORDS)["next_weights"]
    assert np.asarray(weights).tolist() == [[1.0] * 15 + [0.0]]


@functools.cache
def run(chunk, z_loss):
    """The rows have 16 places."""
    model = Model(tiny.gpt2(), (CAUSAL_LM,))
    objective = CausalLm(chunk=chunk, z_loss=z_loss)
    params = tiny.random_params(model)

    def evaluate(params, batch):
        out = tiny.corrupted(objective, batch, 0, tiny.WORDS)
        hidden = model.encode(params, out)
        sums = objective.sums(model, params, {"hidden": hidden}, out)
        logits = model.head(params, "causal_lm", hidden)
        return total_loss(objective, sums.losses, objective.weights(out)), sums.metrics, logits

    return jax.tree.map(np.asarray, jax.jit(evaluate)(params, BATCH))


@pytest.mark.parametrize("chunk, z_loss", [(128, 0.0), (4, 1e-2), (7, 1e-2)])
def test_the_loss_is_the_mean_over_predicted_tokens(chunk, z_loss):
    loss, metrics, logits = run(chunk, z_loss)
    losses, correct = [], 0
    for row, documents in ((0, DOCUMENTS[:3]), (1, DOCUMENTS[3:])):
        at = 0
        for document in documents:
            for offset in range(len(document) - 1):
                x = logits[row, at + offset].astype(float)
                log_z = np.log(np.exp(x).sum())
                losses.append(log_z - x[document[offset + 1]] + z_loss * log_z**2)
                correct += int(x.argmax() == document[offset + 1])
            at += len(document)
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert tuple(map(float, metrics["accuracy/causal_lm"])) == (correct, len(losses))


def test_a_bidirectional_model_is_refused():
    CausalLm().check(tiny.gpt2(), tiny.WORDS)
    with pytest.raises(UserError, match="bidirectional"):
        CausalLm().check(tiny.bert(), tiny.WORDS)
