"""Pairs in the order of their labels (Su, 2022)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxssl.objectives.contrast.base import Compared, Scaled, Texts
from jaxssl.ops.contrast import unit


@dataclass(frozen=True, kw_only=True)
class CoSent(Scaled):
    """log(1 + the sum of exp((cos_j - cos_i) / temperature)) over all pairs i of texts that are
    more alike than pairs j. One number a batch. Source: sentence-transformers, losses/cosent.py."""

    reads_labels: ClassVar[bool] = True
    reads_other_rows: ClassVar[bool] = True

    name: Literal["cosent"] = "cosent"
    """The loss."""

    def weight(self, counted: jax.Array) -> jax.Array:
        """One: it is a number of the whole batch."""
        return jnp.any(counted > 0).astype(jnp.float32)

    def sums(self, texts: Texts) -> Compared:
        """The batch's number."""
        assert texts.labels is not None
        vectors = unit(texts.vectors[:, :2])
        scores = jnp.sum(vectors[:, 0] * vectors[:, 1], axis=-1) * texts.scale
        counted = texts.counted > 0
        ordered = (texts.labels[:, None] > texts.labels[None]) & counted[:, None] & counted[None]
        wrong = jnp.where(ordered, scores[None] - scores[:, None], -jnp.inf)
        none = jnp.zeros((1,), wrong.dtype)
        loss = jax.nn.logsumexp(jnp.concatenate([none, wrong.reshape(-1)]))
        return Compared(loss, {})
