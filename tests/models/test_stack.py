"""Segments, rematerialisation and unrolling change how a stack is computed, not what."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.models.config import Stack
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.program.gradients import make_loss

LAYERS = 3
OBJECTIVE = CausalLm()
BATCH = tiny.corrupted(
    OBJECTIVE, tiny.rows([[d] for d in tiny.random_documents([16, 9])]), 0, tiny.WORDS
)


def model(**changes):
    return Model(tiny.gpt2(num_layers=LAYERS, **changes), OBJECTIVE.heads)


PARAMS = tiny.random_params(model())


@functools.cache
def loss_and_gradients(dropout=False, **changes):
    rates = dict(dropout=0.3, attention_dropout=0.3) if dropout else {}
    loss = make_loss(model(**rates, **changes), OBJECTIVE)
    key = jax.random.key(1) if dropout else None
    value, _, grads = jax.jit(loss)(PARAMS, BATCH, key)
    return float(value), grads


@pytest.mark.parametrize("segments", [(1, 2), (2, 1), (1, 1, 1)])
def test_segments_give_the_same_bits(segments):
    whole = jax.jit(model().encode)(PARAMS, BATCH)
    part = lambda a, b: jax.tree.map(lambda x: x[a:b], PARAMS["decoder"]["layers"])
    parts = Stack("decoder", LAYERS, segments).parts
    assert [end - start for _, start, end in parts] == list(segments)
    cut = {**PARAMS, "decoder": {name: part(start, end) for name, start, end in parts}}
    assert np.array_equal(jax.jit(model(segments=segments).encode)(cut, BATCH), whole)


def test_segments_that_do_not_add_up_are_refused():
    with pytest.raises(UserError, match="sum to 3"):
        model(segments=(1, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"remat": "full"},
        {"remat": "dots"},
        {"remat": "dots_on_hosts"},
        {"remat": "attention"},
        {"remat": "attention+feed_forward"},
        {"unroll": True},
    ],
    ids=str,
)
def test_remat_and_unroll_change_neither_loss_nor_gradients(changes):
    # With dropout: what is computed again must draw the same mask again.
    loss, grads = loss_and_gradients(dropout=True)
    other_loss, other_grads = loss_and_gradients(dropout=True, **changes)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    errors = tiny.relative_l2(other_grads, grads)
    errors.pop("decoder/layers/attention/key/bias")  # zero in theory: rounding alone
    assert max(errors.values()) < 1e-5, errors


def test_remat_keeps_what_it_names_in_each_layer():
    """The compiled step's temporaries grow with the layers by the tensors that are named."""
    B, T, H, M = 8, 64, 64, 256
    objective = CausalLm(chunk=8)
    documents = [[d] for d in tiny.random_documents([T] * B)]
    batch = tiny.corrupted(objective, tiny.rows(documents, length=T))

    def temporaries(remat, layers):
        shape = dict(hidden_size=H, intermediate_size=M, max_positions=T)
        own = Model(tiny.gpt2(num_layers=layers, remat=remat, **shape), objective.heads)
        step = jax.jit(make_loss(own, objective))
        compiled = step.lower(unbox(own.abstract()), batch, None).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # Beside the input of each block: the output of attention; and query, key, value, what the
    # output projection gives, and the wide one. Nothing needs what the narrow one gives.
    kept = {"full": 1, "attention": 2, "attention+feed_forward": 2 + M / H, "dots": 2 + 4 + M / H}
    for remat, tensors in kept.items():
        a_layer = (temporaries(remat, 12) - temporaries(remat, 4)) / 8
        assert a_layer == pytest.approx(4 * B * T * H * tensors, rel=0.05), remat


def test_dropout_changes_the_loss():
    assert loss_and_gradients(dropout=True)[0] != loss_and_gradients()[0]
