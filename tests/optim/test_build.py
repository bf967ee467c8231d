"""What is put around an optimizer's direction: clipping, groups, weight decay, rates."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from updates import START, STEPS

from jaxssl.optim.adafactor import Adafactor
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant
from jaxssl.optim.sgd import Sgd

MOMENTS = ["count", "mu['a']['bias']", "mu['a']['kernel']", "nu['a']['bias']", "nu['a']['kernel']"]
PLAIN = {"learning_rate": 1.0, "weight_decay": 0.0, "schedule": Constant()}


def test_clipping_bounds_the_global_norm_and_leaves_small_gradients_alone():
    optimizer, _ = make_optimizer(Sgd(**PLAIN, momentum=0.0, clip_norm=1.0), STEPS, 1)
    state = optimizer.init(START)
    for scale, factor in ((100.0, None), (1e-4, 1.0)):
        gradient = jax.tree.map(functools.partial(np.multiply, np.float32(scale)), START)
        factor = factor or 1 / float(optax.tree.norm(gradient))
        updates, _ = optimizer.update(gradient, state, START)
        want = jax.tree.map(functools.partial(np.multiply, -factor), gradient)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, want)


@pytest.mark.parametrize("kind", [AdamW, Sgd, Adafactor])
def test_what_is_kept_of_bfloat16_gradients_is_float32(kind):
    optimizer, _ = make_optimizer(kind(**PLAIN, clip_norm=None), STEPS, 1)
    params = {"kernel": jnp.ones(3, jnp.bfloat16)}
    _, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)
    kept = [x for x in jax.tree.leaves(state) if x.ndim]
    assert kept and {x.dtype for x in kept} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "bias_correction, layer_decay, clip_norm, group",
    list(itertools.product([True, False], [None, 0.8], [None, 1.0], [None, "stage0"])),
)
def test_the_state_of_adamw_has_the_paths_that_checkpoints_have(
    bias_correction, layer_decay, clip_norm, group
):
    config = AdamW(bias_correction=bias_correction, layer_decay=layer_decay, clip_norm=clip_norm)
    group_of = None if group is None else {"a/kernel": group, "a/bias": group}.__getitem__
    optimizer, _ = make_optimizer(config, STEPS, 1, {}, group_of)
    found = jax.tree_util.tree_leaves_with_path(jax.eval_shape(optimizer.init, START))
    first = 0 if clip_norm is None else 1
    lead = f"[{first}]" + ("" if group is None else f"['{group}']")
    assert [jax.tree_util.keystr(path) for path, _ in found] == [
        *(f"{lead}.{name}" for name in MOMENTS),
        f"[{first + 2}].count",
    ]
