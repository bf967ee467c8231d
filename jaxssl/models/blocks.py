"""The transformer block that every family assembles: attention and a feed-forward layer.

Shapes: B rows, T tokens, S cached tokens, N heads, D width of a head.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxssl.core.precision import Precision
from jaxssl.models.layers import LayerNorm, Projection, dropout_rng
from jaxssl.ops.activations import ACTIVATIONS, Activation
from jaxssl.ops.attention import attention, segment_mask
from jaxssl.ops.dropout import dropout
from jaxssl.parallel.axes import constrain

HIDDEN = ("batch", "sequence", "activation")


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a block needs to know. Families derive it; users do not write it."""

    hidden_size: int
    num_heads: int
    intermediate_size: int
    activation: Activation
    norm: Literal["pre", "post"]
    norm_epsilon: float
    causal: bool
    dropout: float
    attention_dropout: float
    initializer: nn.initializers.Initializer
    output_initializer: nn.initializers.Initializer
    """For the two projections that write to the residual stream."""
    precision: Precision


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What every block of a stack is given besides the hidden states."""

    segment_ids: jax.Array
    """int32 [B, T]; 0 is padding, documents count from 1."""
    positions: jax.Array
    """int32 [B, T]; with a cache, the slots that keys and values are written to."""


class SelfAttention(nn.Module):
    """Multi-head self-attention; with a `cache` collection it decodes incrementally."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        c = self.config
        heads = (c.num_heads, c.hidden_size // c.num_heads)
        into = ("embed", "heads", "head_dim")

        def project(name: str) -> jax.Array:
            layer = Projection(heads, into, c.initializer, c.precision, name=name)
            return constrain(layer(x), ("batch", "sequence", "heads", "head_dim"))

        q, k, v = project("query"), project("key"), project("value")
        if self.has_variable("cache", "cached_key"):
            k, v, mask = self._cached(k, v, context)
        else:
            mask = segment_mask(context.segment_ids, causal=c.causal)
        out = attention(
            q,
            k,
            v,
            mask,
            precision=c.precision,
            dropout_rate=c.attention_dropout,
            dropout_key=dropout_rng(self),
        )
        out = checkpoint_name(out, "attention_output")
        out_of = ("heads", "head_dim", "embed")
        features = (c.hidden_size,)
        return Projection(
            features, out_of, c.output_initializer, c.precision, num_in=2, name="output"
        )(out)

    def _cached(self, k: jax.Array, v: jax.Array, context: Context):
        """Writes k, v [B, T, N, D] to their slots; keys and values [B, S, N, D], mask [B, 1, T, S].

        A query at position p sees the slots up to p. Rows fill their slots without gaps, so
        whatever padding left behind a row's end is overwritten before it can be seen.
        """
        keys: nn.Variable = self.variable("cache", "cached_key", lambda: k)
        values: nn.Variable = self.variable("cache", "cached_value", lambda: v)
        rows = jnp.arange(k.shape[0])[:, None]
        keys.value = keys.value.at[rows, context.positions].set(k)
        values.value = values.value.at[rows, context.positions].set(v)
        slots = jnp.arange(keys.value.shape[1])
        mask = slots[None, None, :] <= context.positions[:, :, None]
        return keys.value, values.value, mask[:, None]


class FeedForward(nn.Module):
    """Two projections with an activation between."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        width = (c.intermediate_size,)
        h = Projection(width, ("embed", "mlp"), c.initializer, c.precision, name="up")(x)
        h = ACTIVATIONS[c.activation](constrain(h, ("batch", "sequence", "mlp")))
        h = checkpoint_name(h, "feed_forward_hidden")
        out = (c.hidden_size,)
        return Projection(out, ("mlp", "embed"), c.output_initializer, c.precision, name="down")(h)


class Block(nn.Module):
    """Attention and feed-forward, each with dropout, a residual and a norm before or after."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> tuple[jax.Array, None]:
        c = self.config
        attend = SelfAttention(c, name="attention")
        feed = FeedForward(c, name="feed_forward")
        first = LayerNorm(c.norm_epsilon, c.precision, name="attention_norm")
        second = LayerNorm(c.norm_epsilon, c.precision, name="feed_forward_norm")
        drop = lambda y: dropout(y, c.dropout, dropout_rng(self))
        x = constrain(x, HIDDEN)
        if c.norm == "pre":
            x = x + drop(attend(first(x), context))
            x = x + drop(feed(second(x)))
        else:
            x = first(x + drop(attend(x, context)))
            x = second(x + drop(feed(x)))
        return constrain(x, HIDDEN), None
