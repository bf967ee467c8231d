"""A head with a module of its own, and an objective that reads it."""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxssl import Head, Objective, Sums, register
from jaxssl.models.layers import Projection


class ShareModule(nn.Module):
    """A number from 0 to 1 for each token, in float32: [..., H] to [...]."""

    config: Any
    precision: Any

    @nn.compact
    def __call__(self, hidden, embeddings, rows=None):
        initializer = self.config.initializer
        share = Projection((1,), ("embed", None), initializer, self.precision, wide=True)
        return nn.sigmoid(share(hidden)[..., 0])


@dataclass(frozen=True, kw_only=True)
class ShareHead(Head):
    """The head."""

    def make(self, config, precision):
        """Its module."""
        return ShareModule(config, precision)


SHARE = ShareHead(name="share")


@dataclass(frozen=True, kw_only=True)
class Where(Objective):
    """Tell how far into its row each token is."""

    name: Literal["where"] = "where"
    """The objective."""
    power: float = 2.0
    """Of the error."""

    @property
    def heads(self):
        """One number for each token."""
        return (SHARE,)

    def weights(self, batch):
        """The number of tokens."""
        return {"where": jnp.sum(batch["segment_ids"] > 0, dtype=jnp.float32)}

    def sums(self, model, params, outputs, batch, key=None):
        """The error of each token's share."""
        real = (batch["segment_ids"] > 0).astype(jnp.float32)
        share = model.head(params, "share", outputs["hidden"], key, batch.get("row"))
        wanted = jnp.arange(share.shape[1]) / share.shape[1]
        error = jnp.abs(share - wanted)
        loss = jnp.sum(real * error**self.power)
        count = real.sum()
        metrics = {"nll/where": (loss, count), "error/where": (jnp.sum(real * error), count)}
        return Sums({"where": loss}, metrics)


register(Head, SHARE)
register(Objective, Where)
