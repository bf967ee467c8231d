"""Parameters gathered and gradients summed once a step: the same gradient, and nothing sent in
between."""

import functools
import re

import jax
import numpy as np
import optax
import pytest
import tiny

from jaxssl.core.names import flatten, split
from jaxssl.core.platform import use_platform
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.parallel.rules import DEFAULT, use_layout
from jaxssl.program.gradients import make_loss
from jaxssl.program.phase import Phases, born
from jaxssl.run.adapters import attached
from jaxssl.transfer.peft.lora import Lora

DROPS = dict(num_heads=4, dropout=0.1)
CASES = {
    "causal": (CausalLm(chunk=8), tiny.gpt2(**DROPS), {}),
    "masked": (MaskedLm(chunk=2), tiny.bert(pooler=False, **DROPS), {}),
    "lora": (
        CausalLm(chunk=8),
        tiny.gpt2(**DROPS),
        {"low": Lora(rank=2, targets=("all-linear",))},
    ),
}
MESHES = {
    "data 8": dict(data=8),
    "fsdp 8": dict(fsdp=8),
    "data 2 x fsdp 2 x tensor 2": dict(data=2, fsdp=2, tensor=2),
    "fsdp 2 x context 2": dict(fsdp=2, context=2),
}
WIDE = Precision()
SENT = r"= .*? (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\("


@functools.cache
def case(what, precision=WIDE):
    """A model, its loss as a function of microbatches, parameters, and rows with their masks."""
    objective, config, peft = CASES[what]
    model = Model(config, objective.heads, precision, adapters=attached(peft))
    batch = tiny.rows([[d] for d in tiny.random_documents([16] * 24 + [7] * 8)], length=16)
    batch = jax.tree.map(np.asarray, tiny.corrupted(objective, batch, 0, tiny.WORDS))
    loss = functools.partial(make_loss, model, objective)
    return model, loss, tiny.random_params(model), batch


def made(what, mesh, microbatches=1, precision=WIDE, **how):
    """The compiled loss, loss and gradient."""
    model, loss, params, batch = case(what, precision)
    over = tiny.mesh(**mesh)
    is_trained = (
        (lambda path: path.startswith("adapters/")) if what == "lora" else lambda path: True
    )
    with use_layout(over, DEFAULT):
        own, others = split(tiny.shard_params(model, params, over), is_trained)
        rows = jax.device_put(batch, batch_sharding(over))
        arguments = own, rows, jax.random.key(3), others
        program = jax.jit(loss(microbatches, **how)).lower(*arguments).compile()
        value, _, grads = program(*arguments)
        if how and "context" not in mesh:
            there = flatten(own)
            for path, x in flatten(grads).items():
                assert x.sharding.is_equivalent_to(there[path].sharding, x.ndim), path
    return program, float(value), jax.device_get(grads)


@functools.cache
def on_one(what):
    return made(what, {})[1:]


def largest(got, want):
    """Of the relative L2s of all arrays but keys' biases, whose gradient is rounding."""
    errors = tiny.relative_l2(got, want)
    return max(x for path, x in errors.items() if not path.endswith("key/bias"))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("what", CASES)
def test_the_gradient_is_that_of_one_device_and_one_part(what, mesh):
    """With dropout, in four parts; LoRA's base is frozen, and lies in shards, too."""
    _, value, grads = made(what, MESHES[mesh], 2 if mesh.endswith("8") else 4, once=True)
    assert value == pytest.approx(on_one(what)[0], rel=1e-6)
    assert largest(grads, on_one(what)[1]) < 3e-6


def sent_in_loops(program):
    """The kinds of what is sent in other computations than the outermost."""
    inside, is_entry = set(), False
    for line in program.as_text().splitlines():
        if line.endswith("{") and not line.startswith(" "):
            is_entry = line.startswith("ENTRY")
        elif (found := re.search(SENT, line)) and not is_entry:
            inside.add(found[1])
    return inside


@pytest.mark.parametrize("what", ["causal", "masked"])
def test_microbatches_send_nothing(what):
    mesh = dict(data=2, fsdp=4)
    assert {"all-gather", "reduce-scatter"} <= sent_in_loops(made(what, mesh, 2)[0])
    assert not sent_in_loops(made(what, mesh, 2, once=True)[0])


def test_kernels_are_gathered_and_summed_in_the_declared_dtype():
    """As the program is written for a TPU. Tables, norms and the head stay float32; on a CPU, which
    sums bfloat16 in float32, the gradient is that of a sum in each microbatch, within bfloat16."""
    narrow = Precision(compute="bfloat16", reduce="bfloat16")
    model, loss, params, batch = case("causal", narrow)
    over = tiny.mesh(fsdp=8)
    with use_layout(over, DEFAULT):
        shards = tiny.shard_params(model, params, over)
        rows = jax.device_put(batch, batch_sharding(over))
        with use_platform("tpu"):
            text = jax.jit(loss(2, once=True)).lower(shards, rows, None).as_text()
    found = re.findall(
        r'"stablehlo.reduce_scatter".*?\}\) : \(tensor<([\dx]+)x(\w+)>\)', text, re.S
    )
    kinds = {tuple(map(int, shape.split("x"))): kind for shape, kind in found}
    assert kinds[(2, 16, 32)] == "bf16" and kinds[(40, 16)] == "f32"
    usual = made("causal", dict(fsdp=8), 2, narrow)
    once = made("causal", dict(fsdp=8), 2, narrow, once=True)
    assert once[1] == pytest.approx(usual[1], rel=1e-3)
    assert 0 < largest(once[2], usual[2]) < 0.02


def test_on_one_device_it_is_the_usual_way():
    model, loss, params, batch = case("causal")
    with use_layout(tiny.mesh(), DEFAULT):
        texts = [jax.jit(loss(2, once=x)).lower(params, batch, None).as_text() for x in (0, 1)]
    assert texts[0] == texts[1]


def test_a_program_trains_as_on_one_device():
    objective, config, _ = CASES["causal"]
    batch = tiny.rows([[d] for d in tiny.random_documents([16] * 16)], length=16)

    def losses(over, **how):
        model = Model(config, objective.heads)
        program = tiny.program(model, objective, optax.adam(3e-3), batch, over=over, **how)
        with use_layout(over, DEFAULT):
            phase = Phases(program).at(0)
            state = born(phase)
        found = []
        for _ in range(5):
            state, out = tiny.take(phase, state, batch)
            found.append(float(out["loss"]))
        return found

    got = losses(tiny.mesh(data=2, fsdp=2), accumulation=4, gathers_once=True)
    want = losses(tiny.mesh())
    assert got == pytest.approx(want, rel=1e-5) and want[-1] < want[0]
