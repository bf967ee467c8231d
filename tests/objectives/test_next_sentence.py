"""Next sentence prediction over the pooled first token."""

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.models.heads import NEXT_SENTENCE
from jaxssl.models.model import Model
from jaxssl.objectives.base import total_loss
from jaxssl.objectives.next_sentence import NextSentence

MODEL = Model(tiny.bert(), (NEXT_SENTENCE,))
PARAMS = tiny.random_params(MODEL, scale=0.5)


def batch(labels):
    rows = tiny.rows([[d] for d in tiny.random_documents([9, 12, 4])], length=16, count=4)
    return {**rows, "next_sentence": np.array(labels, np.int32)}


@jax.jit
def run(batch):
    objective = NextSentence()
    hidden = MODEL.encode(PARAMS, batch)
    sums = objective.sums(MODEL, PARAMS, {"hidden": hidden}, batch)
    loss = total_loss(objective, sums.losses, objective.weights(batch))
    return loss, sums.metrics, hidden


def test_the_loss_is_the_mean_over_real_rows():
    labels = [1, 0, 1, 1]  # the fourth row is padding
    loss, metrics, hidden = jax.tree.map(np.asarray, run(batch(labels)))
    pooler, head = PARAMS["pooler"], PARAMS["next_sentence"]["output"]
    pooled = np.tanh(hidden[:, 0] @ pooler["kernel"] + pooler["bias"])
    logits = pooled @ head["kernel"] + head["bias"]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    want = -np.mean([log_p[i, labels[i]] for i in range(3)])
    assert float(loss) == pytest.approx(want, rel=1e-5)
    correct = sum(int(logits[i].argmax() == labels[i]) for i in range(3))
    assert tuple(map(float, metrics["accuracy/next_sentence"])) == (correct, 3)


def test_the_label_of_a_padding_row_does_not_matter():
    assert run(batch([1, 0, 1, 1]))[0] == run(batch([1, 0, 1, 0]))[0]
    assert run(batch([1, 0, 1, 1]))[0] != run(batch([1, 0, 0, 1]))[0]


def test_rows_and_models_that_do_not_fit_are_refused():
    plain = batch([0, 0, 0, 0])
    NextSentence().check_rows(plain)
    del plain["next_sentence"]
    with pytest.raises(UserError, match="sentence pairs"):
        NextSentence().check_rows(plain)
    NextSentence().check(tiny.bert(), tiny.WORDS)
    for model in (tiny.bert(pooler=False), tiny.gpt2()):
        with pytest.raises(UserError, match="pooler"):
            NextSentence().check(model, tiny.WORDS)
