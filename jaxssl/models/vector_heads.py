"""Heads of vectors of texts: projections, and what their similarities are multiplied with."""

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
    """The scale in float32 [], whatever it is given: exp of its parameter, at most 100.

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
        return jnp.minimum(jnp.exp(log_scale.astype(jnp.float32)), LARGEST)


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
