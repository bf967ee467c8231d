"""The training step: what it leaves alone, where its state lives, what dropout depends on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.layers import is_boxed
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant
from jaxssl.parallel.mesh import MeshConfig, check_batch
from jaxssl.parallel.rules import rules_in_force
from jaxssl.program.gradients import make_loss
from jaxssl.program.phase import Phases
from jaxssl.program.state import layout
from jaxssl.tasks.classify import Classify

OBJECTIVE = CausalLm()
MODEL = Model(tiny.gpt2(), OBJECTIVE.heads)
CONFIG = AdamW(learning_rate=0.01, schedule=Constant())
OPTIMIZER, _ = make_optimizer(CONFIG, 100, 1)
BATCH = tiny.rows([[d] for d in tiny.random_documents([16, 9, 5, 12, 16, 3, 7, 16])])
ONE = (1, 1, 1)
MESHES = {"1": ONE, "data 8": (8, 1, 1), "2 x 2 x 2": (2, 2, 2)}
UP = "decoder/layers/feed_forward/up/kernel"


def program(model=MODEL, objective=OBJECTIVE, batch=BATCH, sizes=ONE):
    return tiny.program(model, objective, OPTIMIZER, batch, over=tiny.mesh(*sizes))


@functools.cache
def begun(sizes=ONE):
    return tiny.begun(program(sizes=sizes))


def born(sizes=ONE):
    """The first state, to be read."""
    return begun(sizes)[1]


def take(state, sizes=ONE, batch=BATCH):
    """One step from a copy of the state, since a step takes what it is given."""
    return tiny.take(begun(sizes)[0], jax.tree.map(jnp.copy, state), batch)


def same_bits(a, b):
    return all(
        np.array_equal(x, y, equal_nan=True)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


# --- Numbers that are not finite ------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_counts(value):
    state, _ = take(born())
    broken = jax.tree.map(np.array, state)
    flatten(broken.params)[UP][0, 0, 0] = value
    broken = jax.device_put(broken, layout(state))
    after, metrics = take(broken)
    assert same_bits(after.params, broken.params) and same_bits(after.opt_state, broken.opt_state)
    assert int(after.skipped) == int(metrics["skipped"]) == int(broken.skipped) + 1
    assert int(after.step) == int(broken.step) + 1
    assert not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]))


def test_a_finite_step_changes_every_parameter_and_skips_nothing():
    before = born()
    after, _ = take(before)
    assert int(after.skipped) == 0 and int(after.step) == 1
    new, old = flatten(after.params), flatten(before.params)
    still = [name for name in new if np.array_equal(new[name], old[name])]
    assert all(name.endswith("key/bias") for name in still), still  # a softmax ignores those


def test_a_batch_without_any_label_has_no_loss_and_no_gradient():
    empty = {**BATCH, "segment_ids": np.zeros_like(BATCH["segment_ids"])}
    after, metrics = take(born(), batch=empty)
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0
    assert int(after.skipped) == 0


# --- Sharding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES.keys())
def test_the_state_is_born_where_its_axes_say(sizes):
    state, over = born(sizes), tiny.mesh(*sizes)
    specs = jax.tree.map(
        lambda box: rules_in_force().spec(box.names, over), MODEL.abstract(), is_leaf=is_boxed
    )
    named = flatten(specs)
    moments = [s for s in jax.tree.leaves(state.opt_state, is_leaf=is_adam) if is_adam(s)]
    assert len(moments) == 1
    for tree in (state.params, moments[0].mu, moments[0].nu):
        for name, leaf in flatten(tree).items():
            want = jax.sharding.NamedSharding(over, named[name])
            assert leaf.sharding.is_equivalent_to(want, leaf.ndim), name
    kernel = flatten(state.params)[UP]
    assert kernel.addressable_shards[0].data.size == kernel.size // (sizes[1] * sizes[2])
    assert state.step.sharding.is_fully_replicated


def is_adam(x):
    return hasattr(x, "mu") and hasattr(x, "nu")


@pytest.mark.parametrize("sizes", list(MESHES.values())[1:], ids=list(MESHES)[1:])
def test_eight_devices_take_the_same_step_as_one(sizes):
    one, many = born(), born(sizes)
    assert same_bits(one.params, many.params), "the initial values do not depend on the mesh"
    (one, first), (many, other) = take(one), take(many, sizes)
    assert float(first["loss"]) == pytest.approx(float(other["loss"]), rel=2e-6)
    assert float(first["grad_norm"]) == pytest.approx(float(other["grad_norm"]), rel=2e-5)
    for leaf, like in zip(jax.tree.leaves(many), jax.tree.leaves(born(sizes)), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)


def test_the_state_stays_where_it_was_born_and_the_step_is_compiled_once():
    """BERT's pooler has a bias that XLA would rather shard."""
    objective = Combine(terms=(Term(objective=MaskedLm(slots=4)), Term(objective=NextSentence())))
    model = Model(tiny.bert(num_layers=1), objective.heads)
    types = np.zeros_like(BATCH["tokens"])
    batch = {**BATCH, "token_types": types, "next_sentence": types[:, 0]}
    phase, state = tiny.begun(program(model, objective, batch, (1, 2, 1)))
    for _ in range(3):
        state, _ = tiny.take(phase, state, batch)
    for leaf, want in zip(jax.tree.leaves(state), jax.tree.leaves(phase.abstract), strict=True):
        assert leaf.sharding.is_equivalent_to(want.sharding, leaf.ndim)
    assert phase.step(("",))._cache_size() == 1


def test_the_optimizers_state_may_lie_on_the_hosts_and_changes_nothing():
    made = dataclasses.replace(program(sizes=(1, 2, 1)), is_offloaded=True)
    (phase, state), (usual, other) = tiny.begun(made), begun((1, 2, 1))
    other = jax.tree.map(jnp.copy, other)
    for _ in range(3):
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.opt_state) if x.ndim}
        assert kinds == {"pinned_host"}
        assert {x.sharding.memory_kind for x in jax.tree.leaves(state.params)} == {"device"}
        (state, _), (other, _) = tiny.take(phase, state, BATCH), tiny.take(usual, other, BATCH)
    assert same_bits(jax.device_get(state), jax.device_get(other))
    assert phase.step(("",))._cache_size() == 1


def test_an_axis_that_does_not_divide_is_refused_by_name():
    model = Model(tiny.gpt2(hidden_size=12), OBJECTIVE.heads)
    with pytest.raises(UserError, match=r"(?s)not divide.*\(embed\).*multiple of 8 \(mesh.fsdp"):
        tiny.begun(program(model, sizes=(1, 8, 1)))


def test_meshes_and_batches_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="product is 8"):
        MeshConfig(data=3).sizes(8)
    assert MeshConfig(fsdp=2, tensor=2).sizes(8) == (2, 2, 1, 2)
    check_batch(16, 2, tiny.mesh(data=8))
    with pytest.raises(UserError, match="use 16 or 32"):
        check_batch(24, 2, tiny.mesh(data=8))


# --- Dropout ----------------------------------------------------------------------------------


def test_dropout_differs_by_step_and_repeats_with_it():
    model = Model(tiny.gpt2(dropout=0.3, attention_dropout=0.3), OBJECTIVE.heads)
    phase, state = tiny.begun(program(model))

    def at(step):
        number = jax.device_put(np.int32(step), state.step.sharding)
        start = dataclasses.replace(jax.tree.map(jnp.copy, state), step=number)
        return float(tiny.take(phase, start, BATCH)[1]["loss"])

    losses = [at(n) for n in (0, 1, 2)]
    assert len(set(losses)) == 3
    assert at(1) == losses[1]


LABELLED = Classify(labels=("a", "b", "c"), dropout=0.4, r_drop=0.7)
RATES = dict(dropout=0.4, attention_dropout=0.4)
DROPPED = {
    "causal": (Model(tiny.gpt2(**RATES), OBJECTIVE.heads), OBJECTIVE, 0.0),
    "causal, mixout": (Model(tiny.gpt2(**RATES), OBJECTIVE.heads), OBJECTIVE, 0.3),
    "two passes of each row": (Model(tiny.bert(**RATES), LABELLED.heads), LABELLED, 0.0),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=pytest.mark.slow) if x == "causal" else x for x in DROPPED],
)
def test_accumulation_drops_what_the_whole_batch_would_drop(name):
    """With 2 and 4 microbatches the loss and the gradient are those of one, up to rounding."""
    model, objective, mixout = DROPPED[name]
    labels = {"labels": np.arange(8) % 3, "example_weights": np.ones(8, np.float32)}
    batch = tiny.corrupted(objective, BATCH | (labels if objective is LABELLED else {}))
    params, anchors = tiny.random_params(model), tiny.random_params(model, seed=1)

    @functools.cache
    def made(microbatches):
        loss = jax.jit(make_loss(model, objective, microbatches, mixout))
        value, _, grads = loss(params, batch, jax.random.key(0), {}, anchors if mixout else {})
        return float(value), grads

    for count in (2, 4):
        assert made(count)[0] == pytest.approx(made(1)[0], rel=2e-6)
        errors = tiny.relative_l2(made(count)[1], made(1)[1])
        errors = {name: e for name, e in errors.items() if not name.endswith("key/bias")}
        assert max(errors.values()) < 1e-4, errors


def test_equal_rows_are_dropped_differently():
    model = Model(tiny.gpt2(**RATES), OBJECTIVE.heads)
    repeated = {name: np.repeat(x[:1], 2, axis=0) for name, x in BATCH.items()}
    single = {name: x[:1] for name, x in repeated.items()}
    params, key = tiny.random_params(model), jax.random.key(0)
    loss = jax.jit(make_loss(model, OBJECTIVE))
    of = lambda batch: float(loss(params, tiny.corrupted(OBJECTIVE, batch), key)[0])
    # Were both dropped alike, the mean of two equal rows would be the row's own loss.
    assert of(repeated) != pytest.approx(of(single), rel=1e-3)


def test_a_step_counts_the_tokens_that_are_not_padding():
    _, out = take(born())
    assert int(out["tokens"]) == sum([16, 9, 5, 12, 16, 3, 7, 16]) < BATCH["tokens"].size


def test_a_deeper_model_is_no_larger_a_program():
    """The compiler reads a layer once, however many there are."""

    def lines(num_layers):
        model = Model(tiny.gpt2(num_layers=num_layers), OBJECTIVE.heads)
        phase = Phases(program(model)).at(0)
        with jax.set_mesh(phase.program.mesh):
            lowered = phase.step(("",)).lower(phase.abstract, {"": BATCH}, phase.constants)
        return len(lowered.as_text().splitlines())

    assert lines(9) == lines(3)
