"""Prefix tuning (Li & Liang, 2021): keys and values of each layer that every token sees, besides
those of its document. Nothing has to learn to attend to more: the softmax does.

They have no positions: rotary models do not turn them, and tokens keep the places that they had.
Every document of a packed row sees them.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.models.adapters import Site
from jaxssl.transfer.peft.base import Method


@dataclass(frozen=True, kw_only=True)
class Prefix(Method):
    """Keys and values before those of self-attention, in every layer."""

    name: Literal["prefix"] = "prefix"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    length: int = 20
    """How many."""
    initial_scale: float = 0.02
    """Standard deviation of the normal that they begin as."""
    learning_rate_factor: float = 30.0
    """Its learning rate over `optimizer.learning_rate`, which is meant for training everything."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "length")
        check_above_zero(self, "initial_scale")

    def keys_values(
        self, site: Site, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[B, length + S, K, D] each."""

        def longer(name: str, x: jax.Array) -> jax.Array:
            shape = (self.length, *x.shape[2:])
            drawn = initializers.normal(self.initial_scale)
            lead = site.parameter(name, drawn, (None, "kv_heads", "head_dim"), shape)
            lead = jnp.broadcast_to(lead, (len(x), *shape)).astype(x.dtype)
            return jnp.concatenate([lead, x], axis=1)

        return longer("key", keys), longer("value", values)
