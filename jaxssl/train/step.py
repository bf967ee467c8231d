"""One training step and one evaluation step: pure functions of state and batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxssl.core.keys import dropout_key
from jaxssl.core.names import join
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.core.widen import widen
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective, total_loss
from jaxssl.parallel.axes import constrain
from jaxssl.parallel.mesh import replicated
from jaxssl.tasks.base import Task
from jaxssl.train.state import State, layout
from jaxssl.transfer.regularize import NONE, Regularization, mix_out, penalty_gradient

HEAD, MIX = 1 << 20, 1 << 21
"""What a microbatch's dropout key is folded with for its heads, and for mixout."""
NOTHING: Params = {}


def make_loss(
    model: Model, objective: Objective, microbatches: int = 1, mixout: float = 0.0
) -> Callable[..., tuple[jax.Array, Any, Params]]:
    """A function `(params, corrupted batch, key, frozen, anchors) -> (loss, metrics, gradients)`.

    `params` are the parameters to differentiate by, `frozen` the others, and `anchors` what
    `params` started from, for mixout.

    Gradients are added over microbatches in float32 at least. Every microbatch's loss is
    divided by the weight of the whole batch, so the sum is exact however the labels fall.
    """

    def microbatch_loss(params, frozen, anchors, batch, weights, key):
        if mixout and key is not None:
            params = mix_out(params, anchors, mixout, jax.random.fold_in(key, MIX))
        params = join(params, frozen)
        passes = getattr(objective, "passes", 1)  # R-Drop sends each row through dropout twice
        if passes > 1:
            batch = {name: jnp.repeat(x, passes, axis=0) for name, x in batch.items()}
        hidden = model.encode(params, batch, key)
        sums = objective.sums(model, params, hidden, batch, _fold(key, HEAD))
        return total_loss(objective, sums.losses, weights), sums.metrics

    gradient = jax.value_and_grad(microbatch_loss, has_aux=True)

    def loss(params, batch, key, frozen: Params = NOTHING, anchors: Params = NOTHING):
        weights = objective.weights(batch)
        given = (params, frozen, anchors)
        if microbatches == 1:
            (value, metrics), grads = gradient(*given, batch, weights, _fold(key, 0))
            return value, metrics, grads

        def body(carry, item):
            index, microbatch = item
            (value, metrics), grads = gradient(*given, microbatch, weights, _fold(key, index))
            return jax.tree.map(jnp.add, carry, (value, metrics, grads)), None

        parts = jax.tree.map(functools.partial(split_rows, count=microbatches), dict(batch))
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient, *given, first, weights, key)
        (value, metrics), grads = jax.tree.map(lambda s: widen(jnp.zeros(s.shape, s.dtype)), shapes)
        start = (value, metrics, grads)
        total, _ = jax.lax.scan(body, start, (jnp.arange(microbatches), parts))
        return total

    return loss


def _fold(key: jax.Array | None, index: jax.Array | int) -> jax.Array | None:
    return None if key is None else jax.random.fold_in(key, index)


def split_rows(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] as [count, B / count, ...], every device keeping the rows it has."""
    parts = jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)
    return constrain(parts, ("microbatch", "batch", *(None,) * (x.ndim - 1)))


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    vocabulary: Vocabulary,
    *,
    seed: int,
    microbatches: int = 1,
    regularization: Regularization = NONE,
    ema: float | None = None,
) -> Callable[..., tuple[State, dict[str, Any]]]:
    """A step `(state, batch, frozen, anchors) -> (state, metrics)`, to be jitted with the state
    donated.

    `frozen` are the parameters that the state does not hold: they get no gradient and no moments.
    `anchors` are what trained parameters started from, where `regularization` needs it.

    If the loss or the gradient is not finite, on any device, the update is left out and counted in
    `state.skipped`; the parameters stay as they were.

    Args:
      ema: decay of the average in `state.ema`; None where there is none.
    """
    loss_and_grads = make_loss(model, objective, microbatches, regularization.mixout)

    def step(
        state: State, batch: Batch, frozen: Params = NOTHING, anchors: Params = NOTHING
    ) -> tuple[State, dict[str, Any]]:
        corrupted = objective.corrupt(batch, seed, vocabulary)
        key = dropout_key(seed, state.step)
        others = join(state.kept, frozen)
        loss, sums, grads = loss_and_grads(state.params, corrupted, key, others, anchors)
        grads = jax.tree.map(widen, grads)
        if regularization.is_penalty:
            penalty, pull = penalty_gradient(regularization, state.params, anchors)
            grads = jax.tree.map(jnp.add, grads, pull)
            sums = {**sums, "penalty": (penalty, jnp.ones([]))}
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        skipped = state.skipped + (1 - finite.astype(jnp.int32))
        new = State(
            state.step + 1,
            keep(params, state.params),
            keep(opt_state, state.opt_state),
            skipped,
            state.kept,
            {} if ema is None else keep(averaged(state, params, ema), state.ema),
        )
        tokens = jnp.sum(batch["segment_ids"] > 0)
        out = {"loss": loss, "grad_norm": norm, "skipped": skipped, "sums": sums, "tokens": tokens}
        return new, out

    return step


def averaged(state: State, params: Params, decay: float) -> Params:
    """The average after one more step: decay * average + (1 - decay) * params.

    Over the first t updates the decay is at most (1 + t) / (10 + t), as in TensorFlow's
    ExponentialMovingAverage, so that the start does not weigh on it.
    """
    updates = (state.step - state.skipped).astype(jnp.float32)
    share = 1 - jnp.minimum(decay, (1 + updates) / (10 + updates))
    mean = lambda old, new: old + share.astype(old.dtype) * (widen(new) - old)
    return jax.tree.map(mean, state.ema, params)


def jit_train_step(step: Callable[..., Any], abstract: State, mesh: Mesh) -> Callable[..., Any]:
    """`step` compiled, its state donated and kept where it was born.

    Left to itself, XLA moves small leaves in the first step, and the second is compiled again.
    """
    return jax.jit(step, donate_argnums=0, out_shardings=(layout(abstract), replicated(mesh)))


def make_eval_step(
    model: Model, objective: Objective, vocabulary: Vocabulary, *, seed: int
) -> Callable[[Params, Batch], dict[str, Any]]:
    """A function `(params, batch) -> sums` for evaluation: nothing is divided.

    Returns {"losses": {name: sum}, "weights": {name: weight}, "metrics": {name: (sum, weight)}} and
    "rows": of a task, the batch's predictions with `example_id` and `example_weights`.
    """
    predict = getattr(objective, "predict", None)

    def step(params: Params, batch: Batch) -> dict[str, Any]:
        corrupted = objective.corrupt(batch, seed, vocabulary)
        hidden = model.encode(params, corrupted)
        made = objective.sums(model, params, hidden, corrupted)
        weights = objective.weights(corrupted)
        rows = {}
        if predict is not None:
            rows = predict(model, params, hidden, corrupted)
            rows |= {name: batch[name] for name in ("example_id", "example_weights")}
        return {"losses": made.losses, "weights": weights, "metrics": made.metrics, "rows": rows}

    return step


def make_predict_step(
    model: Model, task: Task, vocabulary: Vocabulary
) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """A function `(params, batch) -> predictions`, with `example_id` and `example_weights`, of
    batches without labels."""

    def step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        corrupted = task.corrupt(batch, 0, vocabulary)
        hidden = model.encode(params, corrupted)
        predictions = task.predict(model, params, hidden, corrupted)
        return {**predictions, **{name: batch[name] for name in ("example_id", "example_weights")}}

    return step
