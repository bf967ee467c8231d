"""The code of docs/optimizers.md works as it stands."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxssl.core.config import build, document
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.base import Optimizer
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Linear
from jaxssl.optim.sgd import Sgd

PAGE = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text()
STEPS = 200


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the files of the page define."""
    found = {}
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", PAGE, re.S)):
        path = tmp_path_factory.mktemp("shown") / f"shown_{number}.py"
        path.write_text(code)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= vars(module)
    return found


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


def test_recipes_could_name_both(shown):
    lion, inverse_sqrt = shown["Lion"], shown["InverseSqrt"]

    @dataclass(frozen=True, kw_only=True)
    class Run:
        optimizer: AdamW | Sgd | lion = AdamW()
        schedule: Linear | inverse_sqrt = Linear()

    got = build(Run, {"optimizer": {"name": "lion", "learning_rate": 0.1}})
    assert got.optimizer == lion(learning_rate=0.1)
    assert "Decay of the mean of gradients." in "\n".join(document(Run))


def test_an_optimizer_without_a_direction_cannot_be_made():
    @dataclass(frozen=True, kw_only=True)
    class Still(Optimizer):
        name: str = "still"

    with pytest.raises(TypeError, match="direction"):
        Still(learning_rate=0.1)
