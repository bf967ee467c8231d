"""The transformer block that every family assembles: attention and a feed-forward layer.

Shapes: B rows, T tokens, S cached tokens, N heads, K heads of keys and values, D width of a head.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxssl.core.precision import Precision
from jaxssl.models.layers import LayerNorm, Projection, RmsNorm, dropout_rng
from jaxssl.ops.activations import ACTIVATIONS, Activation
from jaxssl.ops.attention.kernels import KernelName, attention
from jaxssl.ops.attention.pattern import Pattern, Tokens
from jaxssl.ops.dropout import dropout
from jaxssl.ops.rotary import Rotary, rotate, rotations_of
from jaxssl.parallel.axes import constrain

T = TypeVar("T")
HIDDEN = ("batch", "sequence", "activation")


@dataclass(frozen=True)
class LayerType:
    """What layers of one stack may differ in.

    Attributes:
      pattern: which keys a query sees.
      rotary: the rotary positions of queries and keys; None has none.
    """

    pattern: Pattern
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
    layers: tuple[LayerType, ...]
    """The type of each layer of the stack."""
    kernel: KernelName = "xla"
    """What computes attention."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """What every block of a stack is given besides the hidden states."""

    segment_ids: jax.Array
    """int32 [B, T]; 0 is padding, documents count from 1."""
    positions: jax.Array
    """int32 [B, T]; with a cache, the slots that keys and values are written to."""
    prefix: jax.Array | None = None
    """bool [B, T]: tokens that their whole segment sees, where a pattern asks for them."""
    patterns: tuple[Pattern, ...] = field(default=(), metadata={"static": True})
    """The different patterns of the layers."""
    rotations: tuple[jax.Array, jax.Array] | None = None
    """Cosines and sines of the different rotary positions, float32 [number, B, T, D / 2]."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LayerNumbers:
    """What each layer is given of its own, [layers] where stacked; None where all are alike."""

    pattern: jax.Array | None = None
    """int32: which of the context's patterns."""
    rotary: jax.Array | None = None
    """int32: which of its rotations."""
    is_first: jax.Array | None = None
    """bool: whether it is the first of the stack."""


def different(values: Iterable[T]) -> tuple[T, ...]:
    """Each value once, in the order in which they come."""
    return tuple(dict.fromkeys(values))


def layer_patterns(
    config: BlockConfig, pattern: Pattern | None, length: int | None
) -> list[Pattern]:
    """The pattern of each layer: its own, or `pattern` in the layer's window.

    Args:
      length: of the rows; a window that is no narrower is none. None where it is not known.
    """
    own = [layer.pattern for layer in config.layers]
    if pattern is not None:
        own = [pattern.within(each.window) for each in own]
    return own if length is None else [each.over(length) for each in own]


def with_layers(context: Context, config: BlockConfig, patterns: Sequence[Pattern]) -> Context:
    """`context` with the patterns and rotations that the layers choose from."""
    rotaries = different(layer.rotary for layer in config.layers)
    rotations = None
    if rotaries != (None,):
        angles = [r.frequencies(config.head_dim) for r in rotaries if r is not None]
        assert len(angles) == len(rotaries), "rotary positions in some layers alone"
        made = [rotations_of(context.positions, *each) for each in angles]
        cosines, sines = (jnp.stack(parts) for parts in zip(*made))
        rotations = cosines, sines
    return dataclasses.replace(context, patterns=different(patterns), rotations=rotations)


def layer_numbers(
    config: BlockConfig, patterns: Sequence[Pattern], start: int, end: int
) -> LayerNumbers:
    """Those of layers [start, end)."""

    def number(values: Sequence[Any]) -> jax.Array | None:
        known = different(values)
        if len(known) == 1:
            return None
        return jnp.asarray([known.index(value) for value in values[start:end]], jnp.int32)

    rotaries = [layer.rotary for layer in config.layers]
    is_first = None if config.first_norm else jnp.arange(start, end) == 0
    return LayerNumbers(number(patterns), number(rotaries), is_first)


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
    def __call__(self, x: jax.Array, context: Context, numbers: LayerNumbers) -> jax.Array:
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
        if context.rotations is not None:
            which = 0 if numbers.rotary is None else numbers.rotary
            cosine, sine = (x[which] for x in context.rotations)
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        tokens = Tokens(context.segment_ids, prefix=context.prefix)
        queries, keys = tokens, tokens
        if self.has_variable("cache", "cached_key"):
            k, v = self._cached(k, v, context)
            queries, keys = Tokens(positions=context.positions), Tokens()
        out = self._attend(numbers.pattern, context.patterns, q, k, v, queries, keys)
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

    def _attend(
        self, number: jax.Array | None, patterns: tuple[Pattern, ...], *given: Any
    ) -> jax.Array:
        """Attention by the pattern of this number. Each runs for its own layers alone."""
        c, key = self.config, dropout_rng(self)

        def attend(pattern: Pattern, key: jax.Array | None, *given: Any) -> jax.Array:
            q, k, v, queries, keys = given
            options = {"dropout_rate": c.attention_dropout, "dropout_key": key}
            options["precision"] = c.precision
            return attention(c.kernel, q, k, v, pattern, queries, keys, **options)

        branches = [functools.partial(attend, pattern) for pattern in patterns]
        if number is None:
            return branches[0](key, *given)
        # Checkpointed, for else each layer keeps what the backward passes of all branches need:
        # 677 MiB instead of 167 in 22 layers of 512 tokens.
        switch = lambda number, *given: jax.lax.switch(number, branches, *given)
        return jax.checkpoint(switch, prevent_cse=False)(number, key, *given)

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
            x = x + drop(attend(normal, context, numbers))
            x = x + drop(feed(second(x)))
        else:
            x = first(x + drop(attend(x, context, numbers)))
            x = second(x + drop(feed(x)))
        return constrain(x, HIDDEN), None
