"""The transformer block that every family assembles: attention and a feed-forward layer.

Shapes: B rows, T tokens, S cached tokens, N heads, K heads of keys and values, D width of a head.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxssl.core.precision import Precision
from jaxssl.models.layers import LayerNorm, Projection, RmsNorm, dropout_rng
from jaxssl.ops.activations import ACTIVATIONS, Activation
from jaxssl.ops.attention import attention, cached_mask, segment_mask
from jaxssl.ops.dropout import dropout
from jaxssl.ops.rotary import Rotary, rotate, turns
from jaxssl.parallel.axes import constrain

HIDDEN = ("batch", "sequence", "activation")
FAR = np.iinfo(np.int32).max // 2
"""A window that no text fills."""


@dataclass(frozen=True)
class LayerKind:
    """What layers of one stack may differ in.

    Attributes:
      window: how many tokens on each side a token sees, besides itself; None sees all.
      rotary: the rotary positions of queries and keys; None has none.
    """

    window: int | None = None
    rotary: Rotary | None = None


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
    num_kv_heads: int
    """Heads of keys and values; each serves as many heads of queries as there are to it."""
    head_dim: int
    norm_type: Literal["layer", "layer_without_bias", "rms"] = "layer"
    qkv_bias: bool = True
    output_bias: bool = True
    """Of attention's output."""
    feed_forward_bias: bool = True
    gated: bool = False
    """The activation of one projection gates another."""
    qk_norm: bool = False
    """Queries and keys are normalised, each head by itself."""
    first_norm: bool = True
    """Whether the first layer normalises what attention reads. Where not, its scale is there and
    stays 1, so that all layers are stacked alike."""
    kinds: tuple[LayerKind, ...] = (LayerKind(),)
    layer_kinds: tuple[int, ...] = ()
    """For each layer the number of its kind; empty where there is only one."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What every block of a stack is given besides the hidden states."""

    segment_ids: jax.Array
    """int32 [B, T]; 0 is padding, documents count from 1."""
    positions: jax.Array
    """int32 [B, T]; with a cache, the slots that keys and values are written to."""
    turns: tuple[jax.Array, jax.Array] | None = None
    """Cosines and sines of rotary positions, float32 [kinds, B, T, D / 2]."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerNumbers:
    """What each layer is given of its own, [layers] where stacked; None where all are alike."""

    kind: jax.Array | None = None
    """int32: the number of its kind."""
    is_first: jax.Array | None = None
    """bool: whether it is the first of the stack."""


def with_turns(context: Context, config: BlockConfig) -> Context:
    """`context` with the cosines and sines that the kinds of layers need."""
    rotaries = [kind.rotary for kind in config.kinds]
    if all(rotary is None for rotary in rotaries):
        return context
    made = [turns(context.positions, *r.frequencies(config.head_dim)) for r in rotaries if r]
    assert len(made) == len(rotaries), "rotary positions in some layers alone"
    cosines, sines = (jnp.stack(parts) for parts in zip(*made))
    return Context(context.segment_ids, context.positions, (cosines, sines))


def layer_numbers(config: BlockConfig, start: int, end: int) -> LayerNumbers:
    """Those of layers [start, end)."""
    kind = None
    if len(config.kinds) > 1:
        kind = jnp.asarray(config.layer_kinds[start:end], jnp.int32)
    is_first = None if config.first_norm else jnp.arange(start, end) == 0
    return LayerNumbers(kind, is_first)


def make_norm(config: BlockConfig, name: str | None = None) -> nn.Module:
    """The norm of a stack's type."""
    if config.norm_type == "rms":
        return RmsNorm(config.norm_epsilon, config.precision, name=name)
    use_bias = config.norm_type == "layer"
    return LayerNorm(config.norm_epsilon, config.precision, use_bias, name=name)


class SelfAttention(nn.Module):
    """Multi-head self-attention; with a `cache` collection it decodes incrementally."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, kind: jax.Array | None) -> jax.Array:
        c = self.config

        def project(name: str, heads: int) -> jax.Array:
            axis = "heads" if name == "query" else "kv_heads"
            layer = Projection(
                (heads, c.head_dim),
                ("embed", axis, "head_dim"),
                c.initializer,
                c.precision,
                use_bias=c.qkv_bias,
                name=name,
            )
            return constrain(layer(x), ("batch", "sequence", axis, "head_dim"))

        q, k = project("query", c.num_heads), project("key", c.num_kv_heads)
        v = project("value", c.num_kv_heads)
        if c.qk_norm:
            q, k = make_norm(c, "query_norm")(q), make_norm(c, "key_norm")(k)
        if context.turns is not None:
            cosine, sine = (x[0 if kind is None else kind] for x in context.turns)
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        window = self._window(kind)
        if self.has_variable("cache", "cached_key"):
            k, v = self._cached(k, v, context)
            mask = cached_mask(context.positions, k.shape[1], window)
        else:
            mask = segment_mask(context.segment_ids, causal=c.causal, window=window)
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
        return Projection(
            (c.hidden_size,),
            ("heads", "head_dim", "embed"),
            c.output_initializer,
            c.precision,
            num_in=2,
            use_bias=c.output_bias,
            name="output",
        )(out)

    def _window(self, kind: jax.Array | None) -> int | jax.Array | None:
        windows = [each.window for each in self.config.kinds]
        if kind is None:
            return windows[0]
        return jnp.asarray([FAR if window is None else window for window in windows])[kind]

    def _cached(self, k: jax.Array, v: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        """Writes k, v [B, T, K, D] to their slots; all keys and values [B, S, K, D]."""
        keys: nn.Variable = self.variable("cache", "cached_key", lambda: k)
        values: nn.Variable = self.variable("cache", "cached_value", lambda: v)
        rows = jnp.arange(k.shape[0])[:, None]
        keys.value = keys.value.at[rows, context.positions].set(k)
        values.value = values.value.at[rows, context.positions].set(v)
        return keys.value, values.value


class FeedForward(nn.Module):
    """Two projections with an activation between, or three where one gates another."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config

        def wide(name: str) -> jax.Array:
            layer = Projection(
                (c.intermediate_size,),
                ("embed", "mlp"),
                c.initializer,
                c.precision,
                use_bias=c.feed_forward_bias,
                name=name,
            )
            return constrain(layer(x), ("batch", "sequence", "mlp"))

        activate = ACTIVATIONS[c.activation]
        h = activate(wide("gate")) * wide("up") if c.gated else activate(wide("up"))
        h = checkpoint_name(h, "feed_forward_hidden")
        return Projection(
            (c.hidden_size,),
            ("mlp", "embed"),
            c.output_initializer,
            c.precision,
            use_bias=c.feed_forward_bias,
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
        first, second = make_norm(c, "attention_norm"), make_norm(c, "feed_forward_norm")
        drop = lambda y: dropout(y, c.dropout, dropout_rng(self))
        x = constrain(x, HIDDEN)
        if c.norm == "pre":
            normal = first(x)
            if numbers.is_first is not None:
                normal = jnp.where(numbers.is_first, x, normal)
            x = x + drop(attend(normal, context, numbers.kind))
            x = x + drop(feed(second(x)))
        else:
            x = first(x + drop(attend(x, context, numbers.kind)))
            x = second(x + drop(feed(x)))
        return constrain(x, HIDDEN), None
