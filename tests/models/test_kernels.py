"""Attention's kernels inside of models: by name, on each device's shard of rows and heads."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.ops.attention import splash
from jaxssl.ops.attention.kernels import KERNELS
from jaxssl.parallel.rules import DEFAULT, use_layout
from jaxssl.program.gradients import make_loss

LENGTH = 128


@pytest.fixture
def interpreted(monkeypatch):
    """Splash attention as CPUs can run it."""
    kernel = dataclasses.replace(KERNELS["splash"], platforms=("cpu",))
    monkeypatch.setitem(KERNELS, "splash", kernel)
    made = functools.partial(splash.make_table, interpret=True)
    monkeypatch.setattr(splash, "make_table", made)


def gradient(attention, sizes, length=LENGTH, remat="none"):
    """Loss and gradient of a step on a mesh."""
    config = tiny.gpt2(max_positions=length, attention=attention, remat=remat)
    objective = CausalLm(chunk=32)
    model = Model(config, objective.heads, Precision(matmul="default"))
    documents = tiny.random_documents([50, 60, 100, 128, 20, 40, 30, 90])
    batch = tiny.rows(tiny.pack(documents, length), length=length, count=8)
    batch = {**batch, **tiny.corrupted(objective, batch)}
    with use_layout(tiny.mesh(*sizes), DEFAULT):
        step = jax.jit(make_loss(model, objective))
        loss, _, grads = step(tiny.random_params(model), batch, None)
    return float(loss), jax.tree.map(np.asarray, grads)


@pytest.mark.parametrize(
    ("sizes", "length", "remat"),
    [
        ((1, 1, 1), LENGTH, "none"),
        ((2, 1, 2), LENGTH, "attention"),
        ((1, 4, 1), LENGTH, "none"),
        ((1, 2, 2, 2), 2 * LENGTH, "none"),
    ],
)
def test_a_model_on_splash_is_that_on_xla(interpreted, sizes, length, remat):
    loss, grads = gradient("splash", sizes, length, remat)
    expected_loss, expected = gradient("xla", (1, 1, 1), length)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    errors = tiny.relative_l2(grads, expected)
    errors = {name: x for name, x in errors.items() if not name.endswith("key/bias")}  # 0
    assert len(errors) > 10 and max(errors.values()) < 3e-6


def test_it_is_what_auto_takes_and_tells(interpreted):
    config, precision = tiny.gpt2(max_positions=LENGTH), Precision(matmul="default")
    assert config.attention == "auto"
    assert config.attention_told(LENGTH, precision) == "splash"
    told = config.attention_told(LENGTH, Precision())
    assert told == "xla (splash: it takes no exact float32 products)"
    assert "no rows of (96, 96) tokens" in config.attention_told(96, precision)
    assert "dropout" in tiny.gpt2(attention_dropout=0.1).attention_told(LENGTH, precision)


def test_a_model_that_it_cannot_compute_is_refused_at_once():
    with pytest.raises(UserError, match="splash cannot compute this model") as error:
        tiny.gpt2(attention="splash", attention_dropout=0.1)
    assert error.value.where == "attention"  # to which the configuration adds its own path
    assert "no dropout" in error.value.got and error.value.fix == "set model.attention=auto"
