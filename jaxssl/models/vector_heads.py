"""Heads of vectors of texts: projections, and what their similarities are multiplied with."""

import math
from dataclasses import dataclass
from typing import Any

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
class ProjectionHead(Head):
    """SimCSE's: a dense layer of the body's width and tanh, [..., H] to [..., H]."""

    name: str = "projection"
    input: Input = "row"

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """The module."""
        return _Projection(config, precision)


class _Projection(nn.Module):
    config: Any
    precision: Precision

    @nn.compact
    def __call__(
        self, x: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del embeddings, rows
        c, p = self.config, self.precision
        dense = Projection((c.hidden_size,), ("embed", None), c.initializer, p, name="dense")
        return jnp.tanh(dense(x))


@dataclass(frozen=True, kw_only=True)
class FirstInputHead(Head):
    """A vector as the embedding of a first token: [..., H] to [..., E]."""

    name: str = "first_input"
    input: Input = "row"

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """The module."""
        return _FirstInput(config, precision)


class _FirstInput(nn.Module):
    config: Any
    precision: Precision

    @nn.compact
    def __call__(
        self, x: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del embeddings, rows
        c, p = self.config, self.precision
        return Projection((c.embedding_width,), ("embed", None), c.initializer, p, name="dense")(x)
