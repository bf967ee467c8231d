"""Every method is the same on one device and on eight, trained alone over a base that keeps its
bits; each in a model where it finds something to change."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny

import jaxssl.transfer.peft.registry  # noqa: F401
from jaxssl.core.names import flatten, join, matches
from jaxssl.core.registry import members
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.program.program import Stage
from jaxssl.run.adapters import attached
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.compacter import Compacter
from jaxssl.transfer.peft.fusion import Fusion, Sum
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.own import BitFit, Norms
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.prompt import Prompt
from jaxssl.transfer.peft.tokens import Tokens

METHODS = {
    "lora": Lora(targets=("all-linear", "tokens"), dropout=0.2),
    "dora": Lora(rank=2, magnitude=True),
    "bottleneck": Bottleneck(reduction=4),
    "compacter": Compacter(reduction=4),
    "narrow": Bottleneck(reduction=4, place="parallel"),
    "small": Compacter(reduction=4, after=("feed_forward",)),
    "fusion": Fusion(of=("narrow", "small")),
    "first": Bottleneck(reduction=8, weight=0.5),
    "second": Bottleneck(reduction=8, weight=0.5),
    "sum": Sum(of=("first", "second")),
    "prefix": Prefix(length=3),
    "projected": Prefix(length=2, projection_size=8),
    "prompt": Prompt(length=2),
    "encoded": Prompt(length=2, encoder="mlp", encoder_hidden_size=8),
    "recurrent": Prompt(length=2, encoder="lstm", encoder_hidden_size=4),
    "ia3": Ia3(),
    "tokens": Tokens(ids=(3, 0, 17)),
    "bitfit": BitFit(),
    "norms": Norms(),
}
BATCH = tiny.rows([[d] for d in tiny.random_documents([16, 9, 5, 12, 16, 3, 7, 16])])


def test_no_method_is_missing_here():
    assert {type(method) for method in METHODS.values()} == {*members(Method)}


@functools.cache
def trained(*sizes):
    """(losses, state, the parameters before, what is trained) of ten steps on a mesh of these
    sizes."""
    model = Model(tiny.gpt2(dropout=0.1), CausalLm().heads, adapters=attached(METHODS))
    wanted = ["adapters/**", *(p for method in METHODS.values() for p in method.trains)]
    chosen = lambda path: any(matches(pattern, path) for pattern in wanted)
    program = tiny.program(
        model,
        CausalLm(),
        optax.adam(0.01),
        BATCH,
        over=tiny.mesh(*sizes),
        stages=(Stage(0, chosen),),
    )
    phase, state = tiny.begun(program)
    before = jax.device_get(join(state.params, state.kept))
    losses = []
    for _ in range(10):
        state, out = tiny.take(phase, state, BATCH)
        losses.append(float(out["loss"]))
    return losses, jax.device_get(state), before, chosen


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 8, 1)])
def test_ten_steps_of_all_methods_at_once_are_those_of_one_device(sizes):
    losses, state, before, chosen = trained(*sizes)
    wanted, other, _, _ = trained(1, 1, 1)
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
    errors = tiny.relative_l2(state.params, other.params)
    errors = {path: x for path, x in errors.items() if not path.endswith("key/bias")}
    assert max(errors.values()) < 1e-3, errors  # Adam's first steps are signs of gradients
    after = flatten(join(state.params, state.kept))
    moved = {path for path, x in flatten(before).items() if not np.array_equal(after[path], x)}
    assert moved == {path for path in after if chosen(path)}
    assert losses[-1] < losses[0]
