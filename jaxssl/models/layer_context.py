"""What the layers of a stack are given besides hidden states: in common, and each of its own.

Shapes: B rows, T tokens, D width of a head.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxssl.models.config import AttentionConfig, BlockConfig
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.rotary import rotations_of

T = TypeVar("T")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Memory:
    """What the layers of a decoder attend to besides its own tokens: what an encoder made of
    another side, of S tokens."""

    hidden: jax.Array | None
    """[B, S, H]; None where a cache has kept the keys and values that were made of it."""
    segment_ids: jax.Array
    """int32 [B, S]; a token sees those of its own segment."""


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
    rows: jax.Array | None = None
    """uint32 [B]: the rows' places in the global batch, for dropout; None: as they come."""
    bias: jax.Array | None = None
    """Added to the scores of self-attention in every layer, broadcastable to [B, N, T, S]; S is the
    length of the cache where there is one."""
    memory: Memory | None = None
    """What layers with cross-attention attend to."""
    slots: int | None = field(default=None, metadata={"static": True})
    """Of the cache, where there is one: as many keys as a row has."""
    lead: int = field(default=0, metadata={"static": True})
    """So many of a row's first tokens are before all its texts, which see them."""
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
    config: AttentionConfig, pattern: Pattern | None, length: int | None
) -> list[Pattern]:
    """The pattern of each layer: its own, or `pattern` in the layer's window.

    Args:
      length: of the rows; a window that is no narrower is none. None where it is not known.
    """
    own = [layer.pattern for layer in config.layers]
    if pattern is not None:
        own = [pattern.within(each.window) for each in own]
    return own if length is None else [each.over(length) for each in own]


def with_layers(context: Context, config: AttentionConfig, patterns: Sequence[Pattern]) -> Context:
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

    rotaries = [layer.rotary for layer in config.attention.layers]
    is_first = None if config.norm.first else jnp.arange(start, end) == 0
    return LayerNumbers(number(patterns), number(rotaries), is_first)
