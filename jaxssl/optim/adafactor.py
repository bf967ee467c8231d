"""Adafactor: of the second moments of a matrix, the means of its rows and its columns."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax

from jaxssl.core.bounds import check_above_zero, check_at_least, check_unused
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.upcast import upcast
from jaxssl.optim.base import Optimizer
from jaxssl.optim.schedules import Rsqrt, Schedule


@dataclass(frozen=True, kw_only=True)
class Adafactor(Optimizer):
    """Shazeer & Stern, 2018, algorithms 4 and 5, which have no first moment; the defaults are T5's.

    A matrix is that of one layer; its scale and its clipping are its own, whether or not the stack
    is one array. `transformers.optimization.Adafactor` with `relative_step=False` is the same,
    but for two things: it factors small matrices too, and it multiplies weight decay with the
    parameter's scale.
    """

    name: Literal["adafactor"] = "adafactor"
    learning_rate: float = 0.01
    """Peak learning rate; with `parameter_scale` it is relative to each parameter."""
    schedule: Schedule = Rsqrt()
    clip_norm: float | None = None
    decay: float = 0.8
    """At update t the second moments are multiplied with 1 - t^-decay."""
    epsilon: float = 1e-30
    """Added to the square of each gradient."""
    factored_from: int = 128
    """The shorter side that a matrix must have to be factored; of others, and of vectors, all
    second moments are kept."""
    clip_threshold: float | None = 1.0
    """Largest root mean square of a parameter's update, before the learning rate; null does not
    clip."""
    parameter_scale: bool = True
    """Multiply a parameter's update with the root mean square of its values."""
    smallest_scale: float = 1e-3
    """The least that it is multiplied with, so that what begins at 0 can move."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "factored_from")
        check_above_zero(self, "decay", "epsilon", "clip_threshold", "smallest_scale")
        if not self.parameter_scale:
            check_unused(self, ["smallest_scale"], where="with parameter_scale=false")

    def direction(self) -> optax.GradientTransformation:
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay,
                min_dim_size_to_factor=self.factored_from,
                epsilon=self.epsilon,
            )
        ]
        if self.clip_threshold is not None:
            parts.append(optax.clip_by_block_rms(self.clip_threshold))
        if self.parameter_scale:
            parts.append(optax.scale_by_param_block_rms(self.smallest_scale))
        return by_matrix(optax.chain(*parts))


def by_matrix(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` over each matrix or vector by itself, as a layer has it.

    The state is a tree like the parameters, with a state of `inner`'s in the place of each. Of a
    stack, all its arrays have the layers as their first axis, counts too. They are whole on every
    device.
    """

    def init(params):
        def one(path, leaf):
            (array,) = jax.tree.leaves(leaf)  # out of its box, whose axes it no longer has
            return _by_layer(path, inner.init)(as_matrix(path, array))

        return unflatten({path: one(path, leaf) for path, leaf in flatten(params).items()})

    def update(updates, state, params=None):
        states, values = flatten(state), flatten(params or {})
        moved: dict[str, Any] = {}
        for path, gradient in flatten(updates).items():
            of_parameter = as_matrix(path, upcast(values[path]))
            update, states[path] = _by_layer(path, inner.update)(
                as_matrix(path, gradient), states[path], of_parameter
            )
            moved[path] = update.reshape(gradient.shape)
        return unflatten(moved), unflatten(states)

    return optax.GradientTransformation(init, update)


def _by_layer(path: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` over the layers of a stack, or as it is."""
    return jax.vmap(function) if is_stacked(path) else function


VECTORS = ("bias", "scale")
"""Parameters that are vectors, however many axes they have: the bias of queries has two."""
TWO_INPUTS = "output"
"""The projection whose inputs have two axes in attention, heads and their width; the inputs of
others have one."""


def as_matrix(path: str, x: jax.Array) -> jax.Array:
    """A parameter as [inputs, outputs] or as [width], with the layers of a stack before."""
    layers, shape = (x.shape[:1], x.shape[1:]) if is_stacked(path) else ((), x.shape)
    *_, module, name = ("", *path.split("/"))
    if name in VECTORS or len(shape) < 2:
        return x.reshape(*layers, math.prod(shape))
    inputs = len(shape) - 1 if module == TWO_INPUTS else 1
    return x.reshape(*layers, math.prod(shape[:inputs]), math.prod(shape[inputs:]))
