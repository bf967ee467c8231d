"""Gradient descent against torch."""

import functools

import jax
import numpy as np
import optax
import pytest
from updates import START, STEPS, assert_close, updated, updated_by_torch

from jaxssl.core.errors import UserError
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant, Cosine
from jaxssl.optim.sgd import Sgd

SCHEDULE = Cosine(warmup=3, floor=0.1)
KINDS = [(0.0, False), (0.9, False), (0.9, True)]


def by_torch(momentum, nesterov):
    torch = pytest.importorskip("torch", reason="the reference SGD")
    return functools.partial(torch.optim.SGD, lr=0.0, momentum=momentum, nesterov=nesterov)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("momentum, nesterov", KINDS)
def test_sgd_equals_torch(momentum, nesterov, clip):
    config = Sgd(
        learning_rate=0.1, momentum=momentum, nesterov=nesterov, clip_norm=clip, schedule=SCHEDULE
    )
    got, schedule = updated(config)
    assert_close(got, updated_by_torch(by_torch(momentum, nesterov), schedule, clip_norm=clip))


def test_without_momentum_its_weight_decay_is_torchs():
    config = Sgd(learning_rate=0.1, momentum=0.0, weight_decay=0.2, clip_norm=None)
    got, schedule = updated(config)
    assert_close(got, updated_by_torch(by_torch(0.0, False), schedule, weight_decay=0.2))


@pytest.mark.parametrize("nesterov", [False, True])
def test_weight_decay_does_not_go_through_the_momentum(nesterov):
    config = Sgd(learning_rate=0.1, nesterov=nesterov, weight_decay=0.2, clip_norm=None)
    got, schedule = updated(config)
    torchs = functools.partial(
        updated_by_torch, by_torch(0.9, nesterov), schedule, weight_decay=0.2
    )
    assert_close(got, torchs(decoupled=True))
    assert np.abs(got["kernel"] - torchs()["kernel"]).max() > 0.01


def test_a_decay_of_torchs_with_momentum_is_ten_times_ours_at_a_momentum_of_090():
    """As the docstring says: of parameters without gradients, after many steps."""
    torch = pytest.importorskip("torch", reason="the reference SGD")
    parameter = torch.nn.Parameter(torch.ones(1))
    reference = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.01)
    config = Sgd(learning_rate=0.1, weight_decay=0.1, schedule=Constant())
    optimizer, _ = make_optimizer(config, 100, 1)
    params = {"kernel": np.ones(1, np.float32)}
    state, update, still = (
        optimizer.init(params),
        jax.jit(optimizer.update),
        {"kernel": np.zeros(1)},
    )
    for _ in range(100):
        parameter.grad = torch.zeros(1)
        reference.step()
        updates, state = update(still, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["kernel"], parameter.detach().numpy(), rtol=0.15)
    assert float(params["kernel"][0]) < 0.4


def test_plain_descent_keeps_nothing_of_the_gradients():
    optimizer, _ = make_optimizer(Sgd(learning_rate=0.1, momentum=0.0), STEPS, 1)
    (count,) = jax.tree.leaves(optimizer.init(START))
    assert count.shape == ()


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"momentum": 1.0}, "out of range"),
        ({"momentum": 0.0, "nesterov": True}, "look ahead"),
        ({"weight_decay": -0.1}, "out of range"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(UserError, match=message):
        Sgd(learning_rate=0.1, **bad)
