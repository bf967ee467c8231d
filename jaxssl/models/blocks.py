"""The transformer block that every family assembles: attention and a feed-forward layer."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxssl.models.attention import CrossAttention, SelfAttention
from jaxssl.models.config import BlockConfig
from jaxssl.models.layer_context import Context, LayerNumbers
from jaxssl.models.layers import Projection, dropout_rng, make_norm
from jaxssl.ops.activations import ACTIVATIONS
from jaxssl.ops.dropout import dropout
from jaxssl.parallel.axes import constrain


def laid_out(x: jax.Array) -> jax.Array:
    """Hidden states [B, T, H] as they lie between sublayers: the sequence over the devices that
    share a layer."""
    return constrain(x, ("batch", "residual", "activation"))


class FeedForward(nn.Module):
    """Two projections with an activation between, or three where one gates another."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, rows: jax.Array | None) -> jax.Array:
        block, c = self.config, self.config.feed_forward

        def wide(name: str) -> jax.Array:
            layer = Projection(
                (c.size,),
                ("embed", "mlp"),
                block.initializer,
                block.precision,
                use_bias=c.bias,
                name=name,
            )
            return constrain(layer(x), ("batch", "sequence", "mlp"))

        activate = ACTIVATIONS[c.activation]
        h = activate(wide("gate")) * wide("up") if c.gated else activate(wide("up"))
        h = checkpoint_name(h, "feed_forward_hidden")
        h = dropout(h, c.dropout, dropout_rng(self), rows)
        return Projection(
            (block.hidden_size,),
            ("mlp", "embed"),
            block.output_initializer,
            block.precision,
            use_bias=c.bias,
            name="down",
        )(h)


class Block(nn.Module):
    """Attention, to the memory too where that is configured, and feed-forward, each with dropout, a
    residual and a norm before or after."""

    config: BlockConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Context, numbers: LayerNumbers
    ) -> tuple[jax.Array, None]:
        c, rows, skipped = self.config, context.rows, numbers.is_first
        x = laid_out(x)
        x = self._add(x, rows, SelfAttention(c, name="attention"), context, numbers, skip=skipped)
        if c.cross_attention is not None:
            x = self._add(x, rows, CrossAttention(c, name="cross_attention"), context)
        x = self._add(x, rows, FeedForward(c, name="feed_forward"), rows)
        return x, None

    def _add(
        self,
        x: jax.Array,
        rows: jax.Array | None,
        layer: nn.Module,
        *args: Any,
        skip: jax.Array | None = None,
    ) -> jax.Array:
        """x and what a sublayer makes of it.

        Args:
          skip: bool, whether the norm before it is left out.
        """
        c = self.config
        norm: Any = make_norm(c.norm, c.precision, f"{layer.name}_norm")
        sublayer: Any = layer

        def drop(y):
            return dropout(y, c.dropout, dropout_rng(self), rows)

        if c.norm.place == "post":
            return laid_out(norm(x + drop(sublayer(x, *args))))
        read = norm(x) if skip is None else jnp.where(skip, x, norm(x))
        return laid_out(x + drop(sublayer(read, *args)))
