"""Groups of parameters with moments and counts of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxssl.core.names import join
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.groups import by_group
from jaxssl.optim.schedules import Constant
from jaxssl.program.phase import carried_over

GROUPS = {"head/kernel": "stage0", "top/kernel": "stage1", "top/bias": "stage1"}
ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)
GROUPED = by_group(ADAM, GROUPS.__getitem__)
RNG = np.random.default_rng(0)


def tree(*names):
    parts = {"head": {"kernel": (3, 2)}, "top": {"kernel": (3, 3), "bias": (3,)}}
    return {
        n: jax.tree.map(
            lambda s: jnp.float32(RNG.standard_normal(s)),
            parts[n],
            is_leaf=lambda x: isinstance(x, tuple),
        )
        for n in names
    }


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_group_that_begins_later_is_corrected_by_its_own_count():
    """The head goes on as if it were alone; what comes later moves as in a run of its own."""
    early, late = [tree("head") for _ in range(3)], [tree("head", "top") for _ in range(2)]
    state = GROUPED.init(early[0])
    alone = ADAM.init(early[0])
    for gradient in early:
        moved, state = GROUPED.update(gradient, state)
        wanted, alone = ADAM.update(gradient, alone)
        same(moved, wanted)
    state = carried_over(state, GROUPED.init(late[0]))
    fresh = ADAM.init({"top": late[0]["top"]})
    for gradient in late:
        moved, state = GROUPED.update(gradient, state)
        head, alone = ADAM.update({"head": gradient["head"]}, alone)
        top, fresh = ADAM.update({"top": gradient["top"]}, fresh)
        same(moved, join(head, top))
    assert int(state["stage0"].count) == 5 and int(state["stage1"].count) == 2


def test_what_is_carried_over_keeps_its_bits_and_the_rest_is_new():
    first = GROUPED.update(tree("head"), GROUPED.init(tree("head")))[1]
    grown = carried_over(first, GROUPED.init(tree("head", "top")))
    same(grown["stage0"].mu, first["stage0"].mu)
    assert not np.any(grown["stage1"].mu["top"]["kernel"])


def test_a_group_that_is_left_out_keeps_moments_and_count_to_the_last_bit():
    gradients = tree("head", "top")
    _, before = GROUPED.update(gradients, GROUPED.init(gradients))
    gradient = tree("head")
    moved, after = jax.jit(GROUPED.update)(gradient, before)
    assert after.keys() == before.keys() and int(after["stage0"].count) == 2
    same(after["stage1"], before["stage1"])
    want, alone = jax.jit(ADAM.update)(gradient, before["stage0"])
    same(moved, want)
    same(after["stage0"], alone)


def test_what_a_step_does_not_reach_is_left_alone_as_in_torch():
    """A head with a gradient in 2 of 40 steps: there is no decay and no momentum in the others."""
    torch = pytest.importorskip("torch", reason="the reference AdamW")
    config = AdamW(
        learning_rate=0.01, weight_decay=0.1, no_decay=(), clip_norm=None, schedule=Constant()
    )
    optimizer, _ = make_optimizer(config, 40, 1, group_of=GROUPS.__getitem__)
    params = tree("head", "top")
    reference = {
        name: torch.nn.Parameter(torch.tensor(np.asarray(params[name]["kernel"])))
        for name in ("head", "top")
    }
    theirs = torch.optim.AdamW(reference.values(), lr=0.01, weight_decay=0.1)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for step in range(40):
        gradients = tree("top", "head") if step % 20 == 0 else tree("top")
        reached = {name: params[name] for name in gradients}
        updates, state = update(gradients, state, reached)
        params |= optax.apply_updates(reached, updates)
        for name, parameter in reference.items():
            found = gradients.get(name)
            parameter.grad = None if found is None else torch.tensor(np.asarray(found["kernel"]))
        theirs.step()
    assert [int(state[0][group].count) for group in ("stage0", "stage1")] == [2, 40]
    for name, parameter in reference.items():
        want = parameter.detach().numpy()
        np.testing.assert_allclose(params[name]["kernel"], want, rtol=2e-5, atol=2e-6)
