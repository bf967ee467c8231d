"""The transformer block that every family assembles: attention and a feed-forward layer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxssl.models.attention import SelfAttention
from jaxssl.models.config import BlockConfig
from jaxssl.models.layer_context import Context, LayerNumbers
from jaxssl.models.layers import Projection, dropout_rng, make_norm
from jaxssl.ops.activations import ACTIVATIONS
from jaxssl.ops.dropout import dropout
from jaxssl.parallel.axes import constrain

HIDDEN = ("batch", "sequence", "activation")


class FeedForward(nn.Module):
    """Two projections with an activation between, or three where one gates another."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
        return Projection(
            (block.hidden_size,),
            ("mlp", "embed"),
            block.output_initializer,
            block.precision,
            use_bias=c.bias,
            name="down",
        )(h)


class Block(nn.Module):
    """Attention and feed-forward, each with dropout, a residual and a norm before or after."""

    config: BlockConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Context, numbers: LayerNumbers
    ) -> tuple[jax.Array, None]:
        c = self.config
        attend = SelfAttention(c, name="attention")
        feed = FeedForward(c, name="feed_forward")
        normal = functools.partial(make_norm, c.norm, c.precision)
        first, second = normal("attention_norm"), normal("feed_forward_norm")

        def drop(y):
            return dropout(y, c.dropout, dropout_rng(self), context.rows)

        x = constrain(x, HIDDEN)
        if c.norm.place == "pre":
            read = first(x)
            if numbers.is_first is not None:
                read = jnp.where(numbers.is_first, x, read)
            x = x + drop(attend(read, context, numbers))
            x = x + drop(feed(second(x)))
        else:
            x = first(x + drop(attend(x, context, numbers)))
            x = second(x + drop(feed(x)))
        return constrain(x, HIDDEN), None
