"""The optimizer against torch and against formulas in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM, NEXT_SENTENCE
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.optim.adamw import (
    AdamW,
    check_no_decay,
    decay_mask,
    make_optimizer,
    parameter_names,
)
from jaxssl.optim.schedules import Schedule

STEPS = 10
RNG = np.random.default_rng(0)
START = {"a": {"kernel": RNG.standard_normal((3, 4)), "bias": RNG.standard_normal(4)}}
START = jax.tree.map(lambda x: x.astype(np.float32), START)
GRADIENTS = [
    jax.tree.map(lambda x: (3 * RNG.standard_normal(x.shape)).astype(np.float32), START)
    for _ in range(STEPS)
]
SCHEDULE = Schedule(name="cosine", warmup=3, floor=0.1)


def ours(config):
    optimizer, schedule = make_optimizer(config, STEPS, 1)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = START, optimizer.init(START)
    for gradient in GRADIENTS:
        params, state = step(params, state, gradient)
    return jax.tree.map(np.asarray, params), schedule


@pytest.mark.parametrize("clip", [None, 1.0])
def test_adamw_equals_torch(clip):
    torch = pytest.importorskip("torch", reason="the reference AdamW")
    config = AdamW(learning_rate=0.1, weight_decay=0.2, b2=0.95, clip_norm=clip, schedule=SCHEDULE)
    got, schedule = ours(config)
    kernel, bias = (
        torch.nn.Parameter(torch.tensor(START["a"][name])) for name in ("kernel", "bias")
    )
    reference = torch.optim.AdamW(
        [{"params": [kernel], "weight_decay": 0.2}, {"params": [bias], "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    for step, gradient in enumerate(GRADIENTS):
        for group in reference.param_groups:
            group["lr"] = float(schedule(step))
        kernel.grad, bias.grad = (torch.tensor(gradient["a"][n]) for n in ("kernel", "bias"))
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([kernel, bias], clip)
        reference.step()
    np.testing.assert_allclose(got["a"]["kernel"], kernel.detach().numpy(), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(got["a"]["bias"], bias.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_without_bias_correction_it_is_berts_optimizer():
    config = AdamW(
        learning_rate=0.01,
        weight_decay=0.01,
        epsilon=1e-6,
        bias_correction=False,
        clip_norm=1.0,
        schedule=Schedule(name="linear", warmup=2),
    )
    got, schedule = ours(config)
    # google-research/bert optimization.py, AdamWeightDecayOptimizer.apply_gradients, in float64.
    params = {name: x.astype(np.float64) for name, x in START["a"].items()}
    m = {name: np.zeros_like(x) for name, x in params.items()}
    v = {name: np.zeros_like(x) for name, x in params.items()}
    for step, gradient in enumerate(GRADIENTS):
        norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in gradient["a"].values()))
        for name, g in gradient["a"].items():
            g = g / max(1.0, norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g * g
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name != "bias":
                update = update + 0.01 * params[name]
            params[name] = params[name] - float(schedule(step)) * update
    for name in params:
        np.testing.assert_allclose(got["a"][name], params[name], rtol=1e-5, atol=1e-6)


def test_clipping_bounds_the_global_norm_and_leaves_small_gradients_alone():
    config = AdamW(clip_norm=1.0, b1=0.0, learning_rate=1.0, weight_decay=0.0)
    optimizer, _ = make_optimizer(config, STEPS, 1)
    state = optimizer.init(START)
    for scale, factor in ((100.0, None), (1e-4, 1.0)):
        gradient = jax.tree.map(functools.partial(np.multiply, np.float32(scale)), START)
        factor = factor or 1 / float(optax.tree.norm(gradient))
        _, new = optimizer.update(gradient, state, START)
        first = next(s for s in jax.tree.leaves(new, is_leaf=is_adam) if is_adam(s)).mu
        want = jax.tree.map(functools.partial(np.multiply, factor), gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), first, want)


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


@pytest.mark.parametrize("boxed", [False, True])
def test_biases_and_norms_of_stacked_layers_do_not_decay(boxed):
    model = Model(tiny.bert(), (MASKED_LM, NEXT_SENTENCE))
    params = model.abstract() if boxed else unbox(model.abstract())
    names = jax.tree.leaves(parameter_names(params))
    decays = dict(zip(names, jax.tree.leaves(decay_mask(AdamW().no_decay, params)), strict=True))
    assert "encoder/layers/attention/query/bias" in decays
    assert "encoder/layers/attention_norm/scale" in decays
    for name, decay in decays.items():
        assert decay == name.endswith(("kernel", "embedding")), name


def test_own_patterns_spare_what_they_name():
    params = unbox(Model(tiny.gpt2(), (CAUSAL_LM,)).abstract())
    patterns = ("**/bias", "**/scale", "embeddings/**")
    names = jax.tree.leaves(parameter_names(params))
    decays = dict(zip(names, jax.tree.leaves(decay_mask(patterns, params)), strict=True))
    assert not decays["embeddings/tokens/embedding"] and not decays["norm/scale"]
    assert decays["decoder/layers/feed_forward/up/kernel"]


def test_a_pattern_that_matches_nothing_is_refused_with_a_suggestion():
    params = Model(tiny.gpt2(), (CAUSAL_LM,)).abstract()
    check_no_decay((*AdamW().no_decay, "embeddings/tokens/embedding"), params)
    with pytest.raises(UserError, match="did you mean 'embeddings/tokens/embedding'"):
        check_no_decay(("embeddings/token/embedding",), params)


def test_patterns_name_a_stack_whatever_its_segments_and_what_is_trained_of_it():
    whole = flatten(unbox(Model(tiny.gpt2(segments=(1, 1)), (CAUSAL_LM,)).abstract()))
    top = unflatten({name: leaf for name, leaf in whole.items() if "layers[1:2]" in name})
    pattern = "decoder/layers/feed_forward/up/kernel"
    decays = flatten(decay_mask((pattern,), top))
    assert len(decays) > 2
    for name, decay in decays.items():
        assert decay == (not name.endswith("feed_forward/up/kernel")), name


def test_the_first_moment_takes_the_declared_dtype():
    optimizer, _ = make_optimizer(AdamW(moment_dtype="bfloat16"), STEPS, 1)
    adam = next(s for s in jax.tree.leaves(optimizer.init(START), is_leaf=is_adam) if is_adam(s))
    assert {x.dtype for x in jax.tree.leaves(adam.mu)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(adam.nu)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "bad", [{"b1": 1.0}, {"b2": -0.1}, {"learning_rate": -1.0}, {"epsilon": 0.0}], ids=str
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(UserError, match="out of range"):
        AdamW(**bad)


@pytest.mark.parametrize("bias_correction", [True, False])
def test_moments_of_bfloat16_parameters_are_float32_and_decay(bias_correction):
    config = AdamW(bias_correction=bias_correction, clip_norm=None)
    optimizer, _ = make_optimizer(config, 10_000, 1)
    params = {"kernel": jnp.ones(3, jnp.bfloat16)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for gradient, steps in ((1.0, 50), (0.0, 2000)):
        grads = {"kernel": jnp.full(3, gradient, jnp.bfloat16)}
        for _ in range(steps):
            _, state = update(grads, state, params)
    (adam,) = [part for part in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(part)]
    assert adam.nu["kernel"].dtype == adam.mu["kernel"].dtype == jnp.float32
    np.testing.assert_allclose(adam.nu["kernel"], (1 - 0.999**50) * 0.999**2000, rtol=1e-4)
