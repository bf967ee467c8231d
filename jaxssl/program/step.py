"""One training step and one evaluation step: pure functions of state and batches."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxssl.core.keys import dropout_key, numbered_seed
from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.core.ramp import factor_at
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.core.upcast import upcast
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective, all_sums
from jaxssl.parallel.compiler import Options
from jaxssl.parallel.mesh import replicated
from jaxssl.program.gradients import make_loss, num_rows
from jaxssl.program.program import Program
from jaxssl.program.state import Choice, State, everything, layout
from jaxssl.tasks.base import Task
from jaxssl.transfer.regularize import penalty_gradient

STREAM = 1 << 23
"""What a step's dropout key is folded with for its later streams."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constants:
    """What a step is given beside state and batches, and leaves as it is.

    Attributes:
      frozen: the parameters that the state does not hold.
      anchors: what trained parameters started from, where a regulariser needs it.
    """

    frozen: Params = field(default_factory=dict)
    anchors: Params = field(default_factory=dict)


# --- The training step --------------------------------------------------------------------------


def make_train_step(
    program: Program, drawn: tuple[str, ...], is_reached: Choice = everything
) -> Callable[[State, Mapping[str, Batch], Constants], tuple[State, dict[str, Any]]]:
    """A step `(state, {stream: batch}, constants) -> (state, metrics)`, to be jitted with the state
    donated.

    If the loss or the gradient is not finite, on any device, the update is left out and counted in
    `state.skipped`; the parameters stay as they were.

    Args:
      drawn: the streams that the step takes a batch of.
      is_reached: which parameters their losses depend on, by path. The others rest: value, moments
        and average stay as they are, as PyTorch leaves parameters without a gradient alone.

    Returns:
      Its metrics are `loss` (the weighted total), `grad_norm`, `skipped`, and for each drawn stream
      `{"loss", "sums", "weights", "tokens"}`.
    """
    chosen = [i for i, stream in enumerate(program.streams) if stream.name in drawn]

    def step(
        state: State, batches: Mapping[str, Batch], constants: Constants
    ) -> tuple[State, dict[str, Any]]:
        params, resting = split(state.params, is_reached)
        others = join(resting, join(state.kept, constants.frozen))
        made = [
            stream_loss(program, number, batches, state.step)(params, others, constants.anchors)
            for number in chosen
        ]
        loss = functools.reduce(jnp.add, [value for value, _, _ in made])
        grads = functools.reduce(_added, [grads for _, grads, _ in made])
        out = {program.streams[i].name: logged for i, (_, _, logged) in zip(chosen, made)}
        found = penalty_gradient(
            program.regularization, params, constants.anchors, program.model.adapters
        )
        grads = grads if found is None else _added(grads, found[1])
        new, numbers = updated(program, state, params, loss, grads)
        numbers |= {} if found is None else {"penalty": found[0]}
        return new, {"loss": loss, **numbers, "streams": out}

    return step


def _added(left: Params, right: Params) -> Params:
    return jax.tree.map(jnp.add, left, right)


def stream_loss(
    program: Program, number: int, batches: Mapping[str, Batch], step: jax.Array
) -> Callable[[Params, Params, Params], tuple[jax.Array, Params, dict[str, Any]]]:
    """A function `(params, others, anchors) -> (loss, gradient, numbers)` of a stream's batch: its
    weighted loss, that by `params`, and what is written down of it."""
    stream = program.streams[number]
    objective, batch = stream.objective, batches[stream.name]
    seed = numbered_seed(program.seed, number)
    batch = {**batch, "step": jnp.full(num_rows(batch), step, jnp.int32)}
    corrupted = {**batch, **objective.corrupt(batch, seed, program.vocabulary)}
    key = dropout_key(program.seed, step)
    key = jax.random.fold_in(key, STREAM + number) if number else key
    mixout = program.regularization.mixout
    loss = make_loss(
        program.model, objective, program.accumulation, mixout, once=program.gathers_once
    )

    def weighted(params: Params, others: Params, anchors: Params):
        value, sums, grads = loss(params, corrupted, key, others, anchors, step)
        grads = jax.tree.map(upcast, grads)
        logged = {
            "loss": value,
            "sums": sums,
            "weights": objective.weights(corrupted),
            "tokens": objective.tokens({**corrupted, **batch}),
        }
        if stream.weight == 1.0:
            return value, grads, logged
        weight = factor_at(stream.weight, step, jnp.interp)
        return weight * value, jax.tree.map(lambda g: weight * g, grads), logged

    return weighted


def updated(
    program: Program, state: State, params: Params, loss: jax.Array, grads: Params
) -> tuple[State, dict[str, jax.Array]]:
    """The state after an update of `params`, some or all of its own, by their gradient; without it
    where a number is not finite."""
    if program.is_offloaded:
        fetched = jax.device_put(state.opt_state, jax.memory.Space.Device)
        state = dataclasses.replace(state, opt_state=fetched)
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    updates, opt_state = program.optimizer.update(grads, state.opt_state, params)
    moved: Any = optax.apply_updates(params, updates)
    ema = averaged(state, moved, program.ema) if program.ema is not None else {}

    def keep(new, old):
        return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

    skipped = state.skipped + (1 - finite.astype(jnp.int32))
    after = State(
        state.step + 1,
        keep(join(state.params, moved), state.params),
        keep(opt_state, state.opt_state),
        skipped,
        state.kept,
        keep(join(state.ema, ema), state.ema),
    )
    return after, {"grad_norm": norm, "skipped": skipped}


def averaged(state: State, params: Params, decay: float) -> Params:
    """The averages of `params` after one more step: decay * average + (1 - decay) * params.

    Over the first t updates the decay is at most (1 + t) / (10 + t), as in TensorFlow's
    ExponentialMovingAverage, so that the start does not weigh on it.
    """
    updates = (state.step - state.skipped).astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + updates) / (10 + updates))

    def mean(old, new):
        return old + share.astype(old.dtype) * (upcast(new) - old)

    known, moved = flatten(state.ema), flatten(params)
    return unflatten({path: mean(known[path], value) for path, value in moved.items()})


def jit_train_step(
    step: Callable[..., Any], abstract: State, mesh: Mesh, compiler: Options = ()
) -> Callable[..., Any]:
    """`step` compiled, its state donated and kept where it was born.

    Left to itself, XLA moves small leaves in the first step, and the second is compiled again.
    """
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(layout(abstract), replicated(mesh)),
        compiler_options=dict(compiler) or None,
    )


# --- Evaluation -----------------------------------------------------------------------------------


def make_eval_step(
    model: Model, objective: Objective, vocabulary: Vocabulary, *, seed: int
) -> Callable[[Params, Batch], dict[str, Any]]:
    """A function `(params, batch) -> sums` for evaluation: nothing is divided.

    Returns {"losses": {name: sum}, "weights": {name: weight}, "metrics": {name: (sum, weight)}} and
    "rows": the batch's predictions, if there are any, with `example_id` and `example_weights`.
    """

    def step(params: Params, batch: Batch) -> dict[str, Any]:
        corrupted = {**batch, **objective.corrupt(batch, seed, vocabulary)}
        outputs = objective.forward(model, params, corrupted, None)
        made = all_sums(objective, model, params, outputs, corrupted)
        rows = objective.predict(model, params, outputs, corrupted)
        return {
            "losses": made.losses,
            "weights": objective.weights(corrupted),
            "metrics": made.metrics,
            "rows": {**rows, **_identity(batch)} if rows else {},
        }

    return step


def make_predict_step(
    model: Model, task: Task, vocabulary: Vocabulary
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """A function `(params, batch) -> predictions`, with `example_id` and `example_weights`, of
    batches without labels."""

    def step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        corrupted = {**batch, **task.corrupt(batch, 0, vocabulary)}
        outputs = task.forward(model, params, corrupted, None)
        return {**task.predict(model, params, outputs, corrupted), **_identity(batch)}

    return step


def _identity(batch: Batch) -> dict[str, jax.Array]:
    """Which examples the rows are, and whether they count; a text's all do."""
    ids = batch["example_id"]
    return {
        "example_id": ids,
        "example_weights": batch.get("example_weights", jnp.ones(len(ids))),
    }
