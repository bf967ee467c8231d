"""What belongs together nearer than what does not."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.upcast import upcast
from jaxssl.objectives.contrast.base import Compared, Contrast, Texts
from jaxssl.ops.contrast import unit

NEAR = 1e-6
"""PyTorch adds it to differences: the root of 0 has no gradient."""


@dataclass(frozen=True, kw_only=True)
class Triplet(Contrast):
    """max(distance to the second text - distance to the negative + margin, 0); of several negatives
    the mean. Source: sentence-transformers, losses/triplet.py."""

    reads_negatives: ClassVar[bool] = True

    name: Literal["triplet"] = "triplet"
    """The loss."""
    distance: Literal["euclidean", "manhattan", "cosine"] = "euclidean"
    """Of two vectors; `cosine` is one less their cosine."""
    margin: float = 5.0
    """How much nearer it is to be. Of cosines, which are at most 2 apart, 0.5 say."""

    def __post_init__(self):
        check_at_least(0, self, "margin")

    @property
    def compares_directions(self) -> bool:
        """Of cosines."""
        return self.distance == "cosine"

    def sums(self, texts: Texts) -> Compared:
        """Summed over the rows; how often the second text is the nearer one."""
        first = texts.vectors[:, :1]
        distances = self._distances(first, texts.vectors[:, 1:])
        apart = distances[:, :1] - distances[:, 1:]
        loss = jnp.mean(jax.nn.relu(apart + self.margin), axis=1)
        right = jnp.mean(apart < 0, axis=1, dtype=loss.dtype)
        metrics = {"accuracy": (jnp.sum(right * texts.counted), jnp.sum(texts.counted))}
        return Compared(jnp.sum(loss * texts.counted), metrics)

    def _distances(self, one: jax.Array, others: jax.Array) -> jax.Array:
        """[B, K] of [B, 1, H] and [B, K, H]."""
        if self.distance == "cosine":
            return 1 - jnp.sum(unit(one) * unit(others), axis=-1)
        difference = upcast(one) - upcast(others) + NEAR
        if self.distance == "manhattan":
            return jnp.sum(jnp.abs(difference), axis=-1)
        return jnp.sqrt(jnp.sum(difference * difference, axis=-1))
