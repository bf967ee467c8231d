"""The declared precision reaches every matrix product, and logits are float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.extend.core import jaxprs_in_params

from jaxssl.core.precision import Precision
from jaxssl.models.heads import NEXT_SENTENCE, LabelHead
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.program.gradients import make_loss

BOTH = Combine(terms=(Term(objective=MaskedLm()), Term(objective=NextSentence())))


def products(jaxpr) -> list[tuple]:
    """The precision of every matrix product in a jaxpr and those inside it."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation.params["precision"])
        for inner in jaxprs_in_params(equation.params):
            found += products(inner)
    return found


def traced(config, objective, precision):
    model = Model(config, objective.heads, precision)
    batch = tiny.rows([[d] for d in tiny.random_documents([16] * 4)], length=16)
    batch["next_sentence"] = np.zeros(4, np.int32)
    corrupted = tiny.corrupted(objective, batch, 0, tiny.WORDS)
    loss = make_loss(model, objective)
    return products(
        jax.make_jaxpr(loss)(tiny.random_params(model), corrupted, jax.random.key(0)).jaxpr
    )


@pytest.mark.parametrize("config, objective", [(tiny.gpt2(), CausalLm()), (tiny.bert(), BOTH)])
@pytest.mark.parametrize(
    "precision, wanted",
    [
        (Precision(), jax.lax.Precision.HIGHEST),
        (Precision(matmul="default"), jax.lax.Precision.DEFAULT),
        (Precision(compute="bfloat16"), jax.lax.Precision.DEFAULT),
    ],
    ids=["float32", "default", "bfloat16"],
)
def test_every_product_of_a_step_asks_for_the_declared_exactness(
    config, objective, precision, wanted
):
    found = traced(config, objective, precision)
    # 6 projections, two products of attention, and the head's, forward and twice backward.
    assert len(found) >= 3 * 9
    assert set(found) == {(wanted, wanted)}


def test_logits_of_rows_keep_the_bits_that_bfloat16_would_round_off():
    heads = (NEXT_SENTENCE, LabelHead(name="labels", size=3))
    model = Model(tiny.bert(), heads, Precision(compute="bfloat16"))
    params = tiny.random_params(model)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16)), jnp.float32)
    for name in ("next_sentence", "labels"):
        logits = model.head(params, name, x)
        assert logits.dtype == jnp.float32
        assert not np.array_equal(logits, logits.astype(jnp.bfloat16).astype(jnp.float32))
