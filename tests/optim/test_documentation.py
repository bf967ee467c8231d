"""The code of docs/optimizers.md works as it stands."""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plugged
import pytest

from jaxssl import load_plugins
from jaxssl.core.config import build, document
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.base import Optimizer
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Rsqrt

STEPS = 200


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the files of the page define."""
    out = tmp_path_factory.mktemp("shown")
    names = ("lion", "inverse_sqrt")
    with plugged.unplugged():
        for number, name in enumerate(names):
            load_plugins(str(plugged.shown("optimizers.md", name, out, number)))
        yield {key: value for name in names for key, value in vars(sys.modules[name]).items()}


def distance_after_training(config):
    """From the least of a quadratic, of which each step sees a noisy gradient."""
    optimizer, _ = make_optimizer(config, STEPS, 1)
    params = {"kernel": jnp.ones(8)}
    noise = np.random.default_rng(0).normal(scale=0.1, size=(STEPS, 8)).astype(np.float32)

    @jax.jit
    def step(params, state, noise):
        gradients = {"kernel": params["kernel"] + noise}
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for row in noise:
        params, state = step(params, state, row)
    return float(jnp.abs(params["kernel"]).max())


def test_the_optimizer_and_the_schedule_of_the_page_train(shown):
    schedule = shown["InverseSqrt"](warmup=0.1)
    assert distance_after_training(shown["Lion"](learning_rate=0.05, schedule=schedule)) < 0.2


def test_the_optimizer_of_the_page_is_lion(shown):
    """Chen et al., 2023, algorithm 2."""
    lion = shown["Lion"](learning_rate=0.1, weight_decay=0.5, clip_norm=None)
    optimizer, schedule = make_optimizer(lion, STEPS, 1)
    params, mean = np.linspace(-1, 1, 8), np.zeros(8)
    tree = {"kernel": jnp.float32(params)}
    state = optimizer.init(tree)
    for step, gradient in enumerate(np.random.default_rng(1).normal(size=(5, 8))):
        updates, state = optimizer.update({"kernel": jnp.float32(gradient)}, state, tree)
        tree = optax.apply_updates(tree, updates)
        sign = np.sign(0.9 * mean + 0.1 * gradient)
        params = params - float(schedule(step)) * (sign + 0.5 * params)
        mean = 0.99 * mean + 0.01 * gradient
    np.testing.assert_allclose(tree["kernel"], params, rtol=1e-5, atol=1e-6)


def test_the_schedule_of_the_page_is_continuous_at_its_peak(shown):
    rates = shown["InverseSqrt"](warmup=4).make(0.5, STEPS, 1)
    got = [float(rates(step)) for step in (0, 3, 4, 12)]
    np.testing.assert_allclose(got, [0.125, 0.5, 0.5, 0.5 * (4 / 12) ** 0.5], rtol=1e-6)
    own = Rsqrt(warmup=4, hold=4).make(0.5, STEPS, 1)
    np.testing.assert_allclose([float(own(step)) for step in (0, 3, 4, 12)], got, rtol=1e-6)


def test_recipes_can_name_both(shown):
    @dataclass(frozen=True, kw_only=True)
    class Run:
        optimizer: Optimizer = AdamW()

    given = {"name": "lion", "learning_rate": 0.1, "schedule": {"name": "inverse_sqrt"}}
    got = build(Run, {"optimizer": given})
    assert got.optimizer == shown["Lion"](learning_rate=0.1, schedule=shown["InverseSqrt"]())
    assert "Decay of the mean of gradients." in "\n".join(document(Run))


def test_an_optimizer_without_a_direction_cannot_be_made():
    @dataclass(frozen=True, kw_only=True)
    class Still(Optimizer):
        name: str = "still"

    with pytest.raises(TypeError, match="direction"):
        Still(learning_rate=0.1)
