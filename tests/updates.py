"""A small tree of parameters, gradients for it, and what an optimizer makes of them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxssl.optim.base import Optimizer
from jaxssl.optim.build import make_optimizer

STEPS = 10
RNG = np.random.default_rng(0)
START = {"a": {"kernel": RNG.standard_normal((3, 4)), "bias": RNG.standard_normal(4)}}
START = jax.tree.map(lambda x: x.astype(np.float32), START)
GRADIENTS = [
    jax.tree.map(lambda x: (3 * RNG.standard_normal(x.shape)).astype(np.float32), START)
    for _ in range(STEPS)
]


def updated(config: Optimizer) -> tuple[dict[str, np.ndarray], optax.Schedule]:
    """`START` after an update with each of `GRADIENTS`, by name, and the schedule."""
    optimizer, schedule = make_optimizer(config, STEPS, 1)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params, state = START, optimizer.init(START)
    for gradient in GRADIENTS:
        params, state = step(params, state, gradient)
    return jax.tree.map(np.asarray, params["a"]), schedule


def updated_by_torch(
    make: Callable[..., Any],
    schedule: optax.Schedule,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    decoupled: bool = False,
) -> dict[str, np.ndarray]:
    """The same by an optimizer of PyTorch's, whose bias does not decay.

    Args:
      make: the optimizer of groups of parameters.
      decoupled: the decay is done here, apart from the optimizer.
    """
    torch = pytest.importorskip("torch", reason="the reference")
    params = {name: torch.nn.Parameter(torch.tensor(x)) for name, x in START["a"].items()}
    decay = 0.0 if decoupled else weight_decay
    reference = make(
        [
            {"params": [params["kernel"]], "weight_decay": decay},
            {"params": [params["bias"]], "weight_decay": 0.0},
        ]
    )
    for step, gradient in enumerate(GRADIENTS):
        rate = float(schedule(step))
        for group in reference.param_groups:
            group["lr"] = rate
        for name, parameter in params.items():
            parameter.grad = torch.tensor(gradient["a"][name])
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(params.values()), clip_norm)
        if decoupled:
            params["kernel"].data.mul_(1 - rate * weight_decay)
        reference.step()
    return {name: parameter.detach().numpy() for name, parameter in params.items()}


def assert_close(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """By name, to the rounding of ten updates."""
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-6, err_msg=name)
