"""FLOPs are counted before anything is compiled: against formulas."""

import functools

import jax
import jax.numpy as jnp
import pytest
import tiny

from jaxssl.core.precision import Precision
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.ops.attention import splash, xla
from jaxssl.ops.attention.operands import NO_DROPOUT, Operands
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.program.flops import count_flops
from jaxssl.program.phase import Phases
from jaxssl.train.metrics import step_flops

W, X = jnp.ones((4, 4)), jnp.ones((2, 4))
PRODUCT = 2 * 2 * 4 * 4


def test_a_scan_counts_as_often_as_it_runs():
    loop = lambda w, x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=5)[0]
    assert count_flops(loop, W, X) == 5 * PRODUCT
    gradient = jax.grad(lambda x: loop(W, x).sum())
    assert count_flops(gradient, X) == 2 * 5 * PRODUCT


def test_what_is_compiled_with_options_of_the_compiler_is_counted_too():
    """Inside another function JAX refuses such options."""
    options = {"xla_cpu_enable_fast_math": False}
    product = jax.jit(lambda w, x: x @ w, compiler_options=options)
    assert count_flops(product, W, X) == PRODUCT


def test_what_nothing_depends_on_is_not_counted():
    assert count_flops(lambda w, x: (x @ w, x @ w @ w)[0], W, X) == PRODUCT


def test_rematerialised_products_count_twice_and_the_dearest_branch_counts():
    remat = jax.checkpoint(lambda w, x: jnp.sum(jnp.tanh(x @ w) @ w))
    plain = lambda w, x: jnp.sum(jnp.tanh(x @ w) @ w)
    both = [count_flops(jax.value_and_grad(f), W, X) for f in (remat, plain)]
    assert both[0] - both[1] == PRODUCT
    branches = lambda w, x, p: jax.lax.cond(p, lambda: x @ w @ w, lambda: x @ w)
    assert count_flops(branches, W, X, True) == 2 * PRODUCT


def test_a_branch_that_a_constant_chooses_counts_alone():
    """Of three branches of 0, 1 and 2 products, by the numbers that a scan goes over."""
    ways = (lambda x: x, lambda x: jnp.tanh(x @ W), lambda x: jnp.tanh(jnp.tanh(x @ W) @ W))
    numbers = (2, 0, 1, 2, 2)

    def loop(x, kinds, remat):
        def turn(x, kind):
            way = lambda x, kind: jax.lax.switch(kind, ways, x)
            return (jax.checkpoint(way) if remat else way)(x, kind), None

        return jax.lax.scan(turn, x, kinds)[0].sum()

    known = lambda x, remat=False: loop(x, jnp.asarray(numbers), remat)
    assert count_flops(known, X) == sum(numbers) * PRODUCT
    assert count_flops(jax.jit(known), X) == sum(numbers) * PRODUCT
    assert count_flops(jax.grad(known), X) == 2 * sum(numbers) * PRODUCT
    # Computed again: all products but the last of each branch, whose result is not needed.
    again = sum(numbers)
    assert (
        count_flops(jax.grad(functools.partial(known, remat=True)), X)
        == (2 * sum(numbers) + again) * PRODUCT
    )
    unknown = lambda x, kinds: loop(x, kinds, False)
    assert count_flops(unknown, X, jnp.asarray(numbers)) == len(numbers) * 2 * PRODUCT


@pytest.mark.parametrize("segments", [(), (2, 3)])
def test_layers_count_by_their_own_pattern(segments):
    layers, length, window, width = 5, 64, 7, 16
    sizes = {**tiny.SHAPE, "num_layers": layers, "max_positions": length, "segments": segments}
    count = lambda every: count_flops(
        Model(ModernBertConfig(**sizes, local_window=window, global_every=every)).encode,
        unbox(Model(ModernBertConfig(**sizes)).abstract()),
        tiny.rows([[d] for d in tiny.random_documents([length] * 2)]),
    )
    # A local layer computes a block of 16 queries with three of keys, for scores and for values.
    local, whole = 2 * length * 3 * 16 * width, 2 * length * length * width
    num_local = 3  # layers 0 and 3 see everything
    assert count(1) - count(3) == 2 * 2 * num_local * (whole - local)


def test_a_shard_counts_for_each_device_and_a_kernel_for_each_block():
    mesh = tiny.mesh(fsdp=2, tensor=2)
    rows = jax.sharding.PartitionSpec("fsdp")
    with jax.set_mesh(mesh):
        sharded = jax.shard_map(
            lambda x, w: x @ w,
            in_specs=(rows, jax.sharding.PartitionSpec()),
            out_specs=rows,
            axis_names={"fsdp"},
        )
        assert count_flops(sharded, X, W) == PRODUCT
    q, k = jnp.ones((2, 256, 4, 64)), jnp.ones((2, 256, 2, 64))
    given = Operands(q, k, k)
    for attend in (splash.attend, xla.attend):
        run = functools.partial(attend, pattern=Pattern(causal=True), precision=Precision())
        counted = count_flops(functools.partial(run, weight_dropout=NO_DROPOUT), given)
        assert counted == 2 * 2 * 2 * 4 * 64 * 256**2


def test_a_loop_of_unknown_length_is_refused():
    loop = lambda w, x: jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ w, x)
    with pytest.raises(ValueError, match="while"):
        count_flops(loop, W, X)


@pytest.mark.parametrize("kind", ["masked", "narrow", "causal"])
def test_a_training_step_costs_what_the_convention_of_mfu_says(kind):
    """Products of bodies and heads, backward twice the forward. Causal attention is computed whole
    here and counted half there."""
    objective = CausalLm() if kind == "causal" else MaskedLm(slots=8)
    config = {"masked": tiny.bert, "narrow": tiny.electra, "causal": tiny.gpt2}[kind]()
    model = Model(config, objective.heads)
    optimizer, _ = make_optimizer(AdamW(), 10, 1)
    batch = tiny.rows([[d] for d in tiny.random_documents([16] * 8)], length=16)
    made = tiny.program(model, objective, optimizer, batch)
    labels = 8 * 16 if kind == "causal" else 8 * 8
    expected = step_flops(config, objective.heads, 8, 16, labels)
    if kind == "causal":
        expected += 6 * 8 * 16 * config.num_layers * 16 * config.hidden_size
    with jax.set_mesh(made.mesh):
        phase = Phases(made).at(0)
        counted = count_flops(phase.step(("",)), phase.abstract, {"": batch}, phase.constants)
    assert counted == pytest.approx(expected, rel=1e-6)
