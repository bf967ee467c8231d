"""The loss of one batch and its gradient, over microbatches.

Terms that need every row at once, such as those of contrastive learning, are differentiated with
cached gradients (Gao et al., 2021): what they need of each row is computed for all microbatches
without a gradient, the loss is differentiated by it, and a second pass brings that to the
parameters. So their loss and gradient are those of one batch, on any number of microbatches.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.core.names import join
from jaxssl.core.types import Batch, Params
from jaxssl.core.upcast import upcast
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective, all_sums, total_loss
from jaxssl.parallel.axes import constrain
from jaxssl.program.once import summed_once
from jaxssl.transfer.regularize import mix_out

HEAD, MIX = 1 << 20, 1 << 21
"""What a batch's dropout key is folded with for its heads, and for mixout."""
NOTHING: Params = {}
Fixed = tuple[Params, Params]
"""Parameters that are not differentiated, and anchors."""
Result = tuple[jax.Array, Any, Params]
"""Loss, metrics, gradient."""


def make_loss(
    model: Model,
    objective: Objective,
    microbatches: int = 1,
    mixout: float = 0.0,
    once: bool = False,
) -> Callable[..., Result]:
    """A function `(params, corrupted batch, key, others, anchors, step) -> (loss, metrics,
    gradients)`.

    `params` are the parameters to differentiate by, `others` those that are not, and `anchors` what
    `params` started from, for mixout.

    Gradients are added over microbatches in float32 at least. Every microbatch's loss is
    divided by the weight of the whole batch, so the sum is exact however the labels fall. The batch
    gets `row`, each row's place in it: dropout goes by that, so a microbatch is dropped as the
    same rows of the whole batch are.

    Args:
      once: parameters are gathered, and gradients summed over devices, once for all microbatches.
    """

    def loss(
        params: Params,
        batch: Batch,
        key: jax.Array | None,
        others: Params = NOTHING,
        anchors: Params = NOTHING,
        step: jax.Array | int = 0,
    ) -> Result:
        key = fold(key, 0)

        def whole(params: Params, others: Params, anchors: Params) -> Params:
            if mixout and key is not None:
                params = mix_out(params, anchors, mixout, jax.random.fold_in(key, MIX))
            return join(params, others)

        weights = objective.weights(batch)
        batch = {**batch, "row": jnp.arange(num_rows(batch), dtype=jnp.uint32)}
        one = _OneBatch(model, objective, whole, (others, anchors), weights, key, step)
        if microbatches == 1:
            return one.at_once(params, batch)
        parts = jax.tree.map(functools.partial(split_rows, count=microbatches), batch)
        if objective.whole_batch:
            return one.cached(params, batch, parts)
        return one.added_up(params, parts, once)

    return loss


class _OneBatch:
    """Three ways to the gradient of one batch's loss.

    Args:
      whole: all parameters, of those that are differentiated and of the `fixed`.
      fixed: the parameters that are not, and what the others started from.
      weights: what the losses are divided by.
      key: of the batch's dropout.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        whole: Callable[[Params, Params, Params], Params],
        fixed: Fixed,
        weights: Mapping[str, jax.Array],
        key: jax.Array | None,
        step: jax.Array | int,
    ):
        self.model, self.objective, self._whole, self.fixed = model, objective, whole, fixed
        self.weights, self.key, self.head_key = weights, key, fold(key, HEAD)
        self.step = step

    def at_once(self, params: Params, batch: Batch) -> Result:
        """All rows in one pass."""

        def loss(params: Params):
            params, outputs = self._forward(params, batch)
            return self._total(
                all_sums(self.objective, self.model, params, outputs, batch, self.head_key)
            )

        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, metrics, grads

    def added_up(self, params: Params, parts: Batch, once: bool) -> Result:
        """Each microbatch by itself, `parts` [M, B / M, ...]."""

        def loss(params: Params, batch: Batch, fixed: Fixed):
            params, outputs = self._forward(params, batch, fixed)
            return self._total(
                self.objective.sums(self.model, params, outputs, batch, self.head_key)
            )

        gradient = jax.value_and_grad(loss, has_aux=True)

        def added(params: Params, fixed: Fixed, parts: Batch, /):
            return _scanned(lambda part: gradient(params, part, fixed), parts)

        run = summed_once(added, self.model) if once else added
        (value, metrics), grads = run(params, self.fixed, parts)
        return value, metrics, grads

    def cached(self, params: Params, batch: Batch, parts: Batch) -> Result:
        """Each microbatch by itself, twice: `batch` has all their rows."""
        model, objective, key = self.model, self.objective, self.head_key

        def summary(params: Params, part: Batch):
            params, outputs = self._forward(params, part)
            return params, outputs, objective.summary(model, params, outputs, part, key)

        def of_summaries(params: Params, summaries: Mapping[str, jax.Array]):
            made = objective.whole_sums(model, self.whole(params), summaries, batch, key)
            return self._total(made)

        def of_rows(params: Params, part: Batch, pull: Mapping[str, jax.Array]):
            params, outputs, made = summary(params, part)
            value, metrics = self._total(objective.sums(model, params, outputs, part, key))
            pulled = [jnp.vdot(x, pull[name]) for name, x in made.items()]
            return value + sum(pulled), (value, metrics)

        _, kept = jax.lax.scan(lambda carry, part: (carry, summary(params, part)[2]), None, parts)
        summaries = jax.tree.map(merge_rows, kept)
        both = jax.value_and_grad(of_summaries, argnums=(0, 1), has_aux=True)
        (whole_value, whole_metrics), (direct, pull) = both(params, summaries)
        count = next(iter(parts.values())).shape[0]
        pulls = jax.tree.map(functools.partial(split_rows, count=count), pull)
        gradient = jax.grad(of_rows, has_aux=True)
        grads, (value, metrics) = _scanned(lambda turn: gradient(params, *turn), (parts, pulls))
        grads = jax.tree.map(lambda a, b: a + upcast(b), grads, direct)
        return value + whole_value, {**metrics, **whole_metrics}, grads

    def whole(self, params: Params) -> Params:
        """All parameters, of those that are differentiated."""
        return self._whole(params, *self.fixed)

    def _forward(
        self, params: Params, batch: Batch, fixed: Fixed | None = None
    ) -> tuple[Params, Any]:
        params = self._whole(params, *(fixed or self.fixed))
        return params, self.objective.forward(self.model, params, batch, self.key)

    def _total(self, made: Any) -> tuple[jax.Array, Any]:
        return total_loss(self.objective, made.losses, self.weights, self.step), made.metrics


def _scanned(function: Callable[[Any], Any], parts: Any) -> Any:
    """The sum of what a function makes of each part, in float32 at least."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    start = jax.tree.map(lambda s: upcast(jnp.zeros(s.shape, s.dtype)), shapes)

    def body(carry, part):
        return jax.tree.map(jnp.add, carry, function(part)), None

    return jax.lax.scan(body, start, parts)[0]


def fold(key: jax.Array | None, index: jax.Array | int) -> jax.Array | None:
    """A key of its own for each index; none stays none."""
    return None if key is None else jax.random.fold_in(key, index)


def num_rows(batch: Batch) -> int:
    """B of a batch."""
    return next(iter(batch.values())).shape[0]


def split_rows(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] as [count, B / count, ...], every device keeping the rows it has."""
    parts = jnp.swapaxes(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1)
    return constrain(parts, ("microbatch", "batch", *(None,) * (x.ndim - 1)))


def merge_rows(parts: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    whole = jnp.swapaxes(parts, 0, 1).reshape(-1, *parts.shape[2:])
    return constrain(whole, ("batch", *(None,) * (whole.ndim - 1)))
