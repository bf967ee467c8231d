"""What stands for a row: the choice by family, and numpy over padded rows."""

import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.models.model import Model
from jaxssl.tasks.pooling import check_pooling, pooled, reads_pooler, resolve

LENGTHS = (5, 1, 8)
HIDDEN = np.random.default_rng(0).standard_normal((3, 8, 16)).astype(np.float32)
BATCH = tiny.rows([[d] for d in tiny.random_documents(LENGTHS)])
WANTED = {
    "cls": np.stack([row[0] for row in HIDDEN]),
    "last": np.stack([row[n - 1] for row, n in zip(HIDDEN, LENGTHS)]),
    "mean": np.stack([row[:n].mean(0) for row, n in zip(HIDDEN, LENGTHS)]),
}


@pytest.mark.parametrize("choice", ["cls", "mean", "last"])
def test_padding_does_not_count(choice):
    model = Model(tiny.bert(pooler=False))
    np.testing.assert_allclose(pooled(choice, model, {}, HIDDEN, BATCH), WANTED[choice], rtol=1e-5)


def test_auto_is_the_pooler_of_bert_and_the_last_token_of_gpt():
    bert, gpt = Model(tiny.bert()), Model(tiny.gpt2())
    params = tiny.random_params(bert)
    pooler = params["pooler"]
    want = np.tanh(WANTED["cls"] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(pooled("auto", bert, params, HIDDEN, BATCH), want, rtol=1e-4)
    np.testing.assert_array_equal(pooled("auto", gpt, {}, HIDDEN, BATCH), WANTED["last"])
    assert resolve("auto", tiny.bert()) == "cls" and resolve("auto", tiny.gpt2()) == "last"


def test_the_first_token_of_a_causal_model_is_refused():
    with pytest.raises(UserError, match="has seen nothing of the text") as error:
        check_pooling("cls", tiny.gpt2())
    assert error.value.where == "task.pooling" and error.value.expected == "last or mean"
    for choice in ("auto", "mean", "last"):
        check_pooling(choice, tiny.gpt2())
    check_pooling("cls", tiny.bert())


@pytest.mark.parametrize(
    ("choice", "keeps"), [("auto", True), ("cls", True), ("mean", False), ("last", False)]
)
def test_a_pooler_that_is_not_used_is_left_out(choice, keeps):
    assert reads_pooler(choice, tiny.bert()) == keeps
    assert not reads_pooler(choice, tiny.bert(pooler=False))
    assert not reads_pooler(choice, tiny.gpt2())
