"""Heads of vectors of texts: projections, and what their similarities are multiplied with."""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.models.heads import Head, Input
from jaxssl.models.layers import Embedding, Projection, parameter

LARGEST = 100.0
"""CLIP's bound: a larger scale makes training unstable (Radford et al., 2021)."""


@dataclass(frozen=True, kw_only=True)
class ScaleHead(Head):
    """The scale in float32 [], whatever it is given: exp of its parameter, at most 100. What would
    make the parameter smaller reaches it also above that; what would make it larger does not.

    Attributes:
      start: its value before training.
    """

    start: float

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """The module."""
        return _Scale(self.start, precision)


class _Scale(nn.Module):
    start: float
    precision: Precision

    @nn.compact
    def __call__(self, x: Any, embeddings: Embedding, rows: jax.Array | None = None) -> jax.Array:
        del x, embeddings, rows
        start = nn.initializers.constant(math.log(self.start))
        log_scale = parameter(self, "scale", start, (), (), self.precision)
        return jnp.exp(_at_most(log_scale.astype(jnp.float32), math.log(LARGEST)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _at_most(x: jax.Array, bound: float) -> jax.Array:
    """`x`, or the bound. Above it a gradient leads back: CLIP cuts the parameter after each update,
    so that it, too, is never stuck there."""
    return jnp.minimum(x, bound)


def _forward(x: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    return _at_most(x, bound), x


def _backward(bound: float, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    leads_away = (x > bound) & (gradient < 0)
    return (jnp.where(leads_away, 0.0, gradient),)


_at_most.defvjp(_forward, _backward)


@dataclass(frozen=True, kw_only=True)
class VectorHead(Head):
    """A dense layer over a vector [..., H].

    Attributes:
      to: the width that comes out: of hidden states [..., H], or of embeddings [..., E].
      tanh: whether a tanh follows.
    """

    input: Input = "row"
    to: Literal["hidden", "embedding"] = "hidden"
    tanh: bool = False

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """The module."""
        width = config.hidden_size if self.to == "hidden" else config.embedding_width
        return _Dense(config, precision, width, self.tanh)


class _Dense(nn.Module):
    config: Any
    precision: Precision
    width: int
    tanh: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del embeddings, rows
        axes, start = ("embed", None), self.config.initializer
        y = Projection((self.width,), axes, start, self.precision, name="dense")(x)
        return jnp.tanh(y) if self.tanh else y
