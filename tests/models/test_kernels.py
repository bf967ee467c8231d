"""Attention's kernels inside of models: by name, on each device's shard of rows and heads."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import tiny
from jax._src.cudnn import fused_attention_stablehlo

from jaxssl.core.errors import UserError
from jaxssl.core.platform import use_platform
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.ops.attention import cudnn, splash
from jaxssl.ops.attention.kernels import KERNELS
from jaxssl.parallel.rules import DEFAULT, use_layout
from jaxssl.program.flops import count_flops
from jaxssl.program.gradients import make_loss

LENGTH = 128
BFLOAT16 = Precision(compute="bfloat16")


@pytest.fixture
def interpreted(monkeypatch):
    """Splash attention as CPUs can run it."""
    kernel = dataclasses.replace(KERNELS["splash"], platforms=("cpu",))
    monkeypatch.setitem(KERNELS, "splash", kernel)
    made = functools.partial(splash.make_table, interpret=True)
    monkeypatch.setattr(splash, "make_table", made)


@pytest.fixture
def on_cpu(monkeypatch):
    """JAX's call that is cuDNN's on a GPU, as CPUs can run it, in float32 too."""
    attend = functools.partial(cudnn.attend, implementation="xla")
    kernel = dataclasses.replace(
        KERNELS["cudnn"], attend=attend, platforms=("cpu",), lacks=lambda call: None
    )
    monkeypatch.setitem(KERNELS, "cudnn", kernel)


@pytest.fixture
def cuda(monkeypatch):
    """JAX asks for the version of cuDNN before it traces the call, and does not read it."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91002)


def parts(attention, precision, length=LENGTH, remat="none"):
    """A model, an objective and a batch of documents."""
    config = tiny.gpt2(max_positions=length, attention=attention, remat=remat)
    objective = CausalLm(chunk=32)
    model = Model(config, objective.heads, precision)
    documents = tiny.random_documents([50, 60, 100, 128, 20, 40, 30, 90])
    batch = tiny.rows(tiny.pack(documents, length), length=length, count=8)
    return model, objective, {**batch, **tiny.corrupted(objective, batch)}


def gradient(attention, sizes, length=LENGTH, remat="none"):
    """Loss and gradient of a step on a mesh."""
    model, objective, batch = parts(attention, Precision(matmul="default"), length, remat)
    with use_layout(tiny.mesh(*sizes), DEFAULT):
        step = jax.jit(make_loss(model, objective))
        loss, _, grads = step(tiny.random_params(model), batch, None)
    return float(loss), jax.tree.map(np.asarray, grads)


def check_equal(kernel, sizes, length, remat):
    loss, grads = gradient(kernel, sizes, length, remat)
    expected_loss, expected = gradient("xla", (1, 1, 1), length)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    errors = tiny.relative_l2(grads, expected)
    errors = {name: x for name, x in errors.items() if not name.endswith("key/bias")}  # 0
    assert len(errors) > 10 and max(errors.values()) < 3e-6


@pytest.mark.parametrize(
    ("sizes", "length", "remat"),
    [
        ((1, 1, 1), LENGTH, "none"),
        ((2, 1, 2), LENGTH, "attention"),
        ((1, 4, 1), LENGTH, "none"),
        ((1, 2, 2, 2), 2 * LENGTH, "none"),
        ((1, 1, 1, 4), 4 * LENGTH, "attention"),
        ((1, 1, 1, 2), 4 * LENGTH, "none"),
    ],
)
def test_a_model_on_splash_is_that_on_xla(interpreted, sizes, length, remat):
    check_equal("splash", sizes, length, remat)


@pytest.mark.parametrize(
    ("sizes", "remat"),
    [
        ((1, 1, 1), "none"),
        ((2, 1, 2), "attention"),
        ((1, 4, 1), "full"),
        ((1, 2, 2, 2), "none"),
    ],
)
def test_a_model_on_cudnns_call_is_that_on_xla(on_cpu, sizes, remat):
    check_equal("cudnn", sizes, LENGTH, remat)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(
    ("remat", "forward"), [("none", 1), ("attention", 1), ("dots", 1), ("full", 2)]
)
def test_a_step_for_gpus_calls_cudnn_once_each_way(cuda, sizes, remat, forward):
    """In the loop over layers; the backward pass runs the forward kernel again only where nothing
    is kept. Devices call it for themselves, on their rows and heads."""
    model, objective, batch = parts("auto", BFLOAT16, remat=remat)
    with use_layout(tiny.mesh(*sizes), DEFAULT), use_platform("gpu"):
        traced = jax.jit(make_loss(model, objective)).trace(tiny.random_params(model), batch, None)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(r"custom_call @__cudnn\$fmhaScaleBiasSoftmax\(", text)) == forward
    assert len(re.findall(r"custom_call @__cudnn\$fmhaScaleBiasSoftmaxBackward\(", text)) == 1
    assert text.count("CAUSAL") == forward + 1
    assert "CustomSPMDPartitioning" not in text
    layers_masks = rf"tensor<{model.config.num_layers}x\d+x1x{LENGTH}x{LENGTH}x"
    assert not re.search(layers_masks, text)  # it is made, and kept, for all layers at once


def test_what_cudnn_computes_counts_as_products(cuda):
    """As many as xla's forward, and in the backward pass that of the scores once more."""
    counts = {}
    for name in ("xla", "cudnn"):
        model, objective, batch = parts(name, BFLOAT16)
        run = make_loss(model, objective)
        params = tiny.random_params(model)
        with use_platform("gpu"):
            whole = count_flops(run, params, batch, None)
            forward = count_flops(lambda *args, run=run: run(*args)[0], params, batch, None)
        counts[name] = np.array([forward, whole])
    heads, layers = model.config.num_heads, model.config.num_layers
    scores = 2 * 8 * heads * LENGTH**2 * model.config.head_dim * layers
    assert (counts["cudnn"] - counts["xla"]).tolist() == [0, scores]


def test_cudnn_is_what_auto_takes_on_gpus_and_tells():
    config, precision = tiny.gpt2(max_positions=LENGTH), BFLOAT16
    with use_platform("gpu"):
        assert config.attention_told(LENGTH, precision) == "cudnn"
        told = config.attention_told(LENGTH, Precision(matmul="default"))
        assert told.startswith("xla (cudnn: it takes no float32 operands")
        assert "odd number" in config.attention_told(97, precision)
        assert "dropout" in tiny.gpt2(attention_dropout=0.1).attention_told(LENGTH, precision)


def test_splash_is_what_auto_takes_and_tells(interpreted):
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
