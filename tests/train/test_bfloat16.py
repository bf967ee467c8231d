"""A whole step in bfloat16 on a sharded mesh, beside the same in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant
from jaxssl.program.gradients import make_loss

OBJECTIVE = CausalLm(chunk=8)
BATCH = tiny.rows([[d] for d in tiny.random_documents([16] * 8)])
OPTIMIZER, _ = make_optimizer(AdamW(learning_rate=0.01, schedule=Constant()), 9, 1)


def one_step(precision):
    """The state and metrics after one step on fsdp=8, from the same parameters."""
    over, model = tiny.mesh(fsdp=8), Model(tiny.gpt2(num_layers=1), OBJECTIVE.heads, precision)
    phase, state = tiny.begun(tiny.program(model, OBJECTIVE, OPTIMIZER, BATCH, over=over))
    before = jax.tree.map(np.array, state.params)
    state, out = tiny.take(phase, state, BATCH)
    return before, state, jax.device_get(out)


def test_a_step_in_bfloat16_is_that_in_float32_to_its_precision_with_float32_parameters():
    _, _, exact = one_step(Precision())
    before, state, out = one_step(Precision(compute="bfloat16"))
    assert out["loss"] != exact["loss"], "nothing was computed in bfloat16"
    assert out["loss"] == pytest.approx(exact["loss"], rel=0.01)
    assert out["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.03)
    moments = jax.tree.leaves(state.opt_state)
    for leaf in (*jax.tree.leaves(state.params), *(m for m in moments if m.ndim)):
        assert leaf.dtype == jnp.float32
    before, after = flatten(before), flatten(jax.device_get(state.params))
    for name, value in after.items():
        assert np.isfinite(value).all() and not np.array_equal(value, before[name]), name
        rounded = value.astype(jnp.bfloat16).astype(np.float32)
        assert not np.array_equal(value, rounded), f"{name} holds bfloat16 values alone"


def test_a_step_that_sums_in_bfloat16_is_one_that_sums_in_float32_to_its_precision():
    """Kernels lie in shards: jaxlib ends the process over such sums of bfloat16 on a CPU."""
    _, _, want = one_step(Precision(compute="bfloat16"))
    _, _, out = one_step(Precision(compute="bfloat16", reduce="bfloat16"))
    assert out["loss"] == want["loss"] and out["grad_norm"] != want["grad_norm"]
    assert out["grad_norm"] == pytest.approx(want["grad_norm"], rel=0.01)


@pytest.mark.parametrize("reduce", ["float32", "bfloat16"])
def test_gradients_of_kernels_are_added_up_over_devices_in_the_declared_dtype(reduce):
    over = tiny.mesh(fsdp=8)
    precision = Precision(compute="bfloat16", reduce=reduce)
    model = Model(tiny.gpt2(), OBJECTIVE.heads, precision)
    with jax.set_mesh(over):
        corrupted = tiny.corrupted(OBJECTIVE, BATCH, 0, tiny.WORDS)
        params = tiny.random_params(model)
        jaxpr = jax.make_jaxpr(make_loss(model, OBJECTIVE))(params, corrupted, None)
    # A kernel's gradient [in, out] is the product whose tokens are contracted away.
    shapes = {(16, 16), (16, 32), (32, 16)}
    dtypes = {x.aval.dtype for x in products(jaxpr.jaxpr) if x.aval.shape in shapes}
    assert dtypes == {jnp.dtype(reduce)}


def products(jaxpr):
    """What every matrix product in a jaxpr, and in those inside it, gives."""
    from jax.extend.core import jaxprs_in_params

    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0]
        for inner in jaxprs_in_params(equation.params):
            yield from products(inner)
