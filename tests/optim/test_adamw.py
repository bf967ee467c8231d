"""AdamW against torch and against formulas in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from updates import GRADIENTS, START, STEPS, assert_close, updated, updated_by_torch

from jaxssl.core.errors import UserError
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Cosine, Linear

SCHEDULE = Cosine(warmup=3, floor=0.1)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_adamw_equals_torch(clip):
    torch = pytest.importorskip("torch", reason="the reference AdamW")
    config = AdamW(learning_rate=0.1, weight_decay=0.2, b2=0.95, clip_norm=clip, schedule=SCHEDULE)
    got, schedule = updated(config)
    make = functools.partial(torch.optim.AdamW, betas=(0.9, 0.95), eps=1e-8)
    assert_close(got, updated_by_torch(make, schedule, weight_decay=0.2, clip_norm=clip))


def test_without_bias_correction_it_is_berts_optimizer():
    config = AdamW(
        learning_rate=0.01,
        weight_decay=0.01,
        epsilon=1e-6,
        bias_correction=False,
        clip_norm=1.0,
        schedule=Linear(warmup=2),
    )
    got, schedule = updated(config)
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
        np.testing.assert_allclose(got[name], params[name], rtol=1e-5, atol=1e-6)


def is_adam(x):
    return isinstance(x, optax.ScaleByAdamState)


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
