"""What a family's network is made of, part by part. Families derive it; users do not write it."""

import itertools
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn

from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.ops.activations import Activation
from jaxssl.ops.attention.kernels import KernelName
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.rotary import Rotary


@dataclass(frozen=True)
class Stack:
    """Equal blocks, one after the other.

    Attributes:
      name: its path in the parameters.
      depth: how many blocks.
      segments: sizes of the groups of layers that are scanned together, and whose parameters are
        one array a leaf; empty means one group of all.
    """

    name: str
    depth: int
    segments: tuple[int, ...] = ()

    def __post_init__(self):
        if sum(self.sizes) != self.depth or any(size < 1 for size in self.sizes):
            raise UserError(
                "the segments do not add up to the layers",
                where="segments",
                expected=f"positive sizes that sum to {self.depth}",
                got=self.segments,
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of its segments."""
        return self.segments or (self.depth,)

    @property
    def parts(self) -> list[tuple[str, int, int]]:
        """(name among the stack's parameters, first layer, end) of each segment: `layers`, or
        `layers[0:6]` and so on."""
        if len(self.sizes) == 1:
            return [("layers", 0, self.depth)]
        ends = list(itertools.accumulate(self.sizes, initial=0))
        return [(f"layers[{start}:{end}]", start, end) for start, end in zip(ends, ends[1:])]


@dataclass(frozen=True)
class LayerType:
    """What layers of one stack may differ in.

    Attributes:
      pattern: which keys a query sees.
      rotary: the rotary positions of queries and keys; None has none.
    """

    pattern: Pattern
    rotary: Rotary | None = None


@dataclass(frozen=True)
class RelativePositions:
    """A number added to the scores for each distance between query and key, by buckets: near ones
    by themselves, far ones together (T5).

    Attributes:
      buckets: how many distances are told apart.
      max_distance: from here on, in tokens, all are one.
      both_ways: whether half of the buckets are for keys behind the query; else all keys come
        before it.
      deviation: of the normal that the numbers start from.
    """

    buckets: int
    max_distance: int
    both_ways: bool
    deviation: float

    def __post_init__(self):
        exact = self.buckets // (4 if self.both_ways else 2)
        if exact < 1 or self.max_distance <= exact:
            raise UserError(
                "the buckets of distances do not go together",
                where="relative_buckets, relative_max_distance",
                expected=f"a distance above {max(exact, 1)}, and 2 buckets or more (encoder: 4)",
                got=f"{self.buckets} buckets, up to {self.max_distance} tokens",
            )


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Self-attention of a stack's layers, or cross-attention."""

    num_heads: int
    num_kv_heads: int
    """Heads of keys and values; each serves as many heads of queries as there are to it."""
    head_dim: int
    layers: tuple[LayerType, ...] = ()
    """The type of each layer of the stack. Cross-attention has none: it sees its whole segment."""
    kernel: KernelName
    """What computes it."""
    dropout: float
    """Of the weights."""
    qkv_bias: bool = True
    output_bias: bool = True
    qk_norm: bool = False
    """Queries and keys are normalised, each head by itself."""
    scale: float | None = None
    """What scores are multiplied by; None is 1 / sqrt(head_dim)."""
    query_initializer: nn.initializers.Initializer | None = None
    """Of the projection to queries; None is the block's."""
    relative: RelativePositions | None = None
    """What the stack adds to the scores of all its layers."""


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """The feed-forward layers."""

    size: int
    activation: Activation
    gated: bool = False
    """The activation of one projection gates another."""
    bias: bool = True
    dropout: float = 0.0
    """Of what the activation puts out."""


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """The norms of a network."""

    type: Literal["layer", "layer_without_bias", "rms"] = "layer"
    epsilon: float
    place: Literal["pre", "post"] = "pre"
    """Before each sublayer, or after the residual is added."""
    first: bool = True
    """Whether the first layer normalises what attention reads. Where not, its scale is there and
    stays 1, so that all layers are stacked alike."""


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One block of a stack."""

    hidden_size: int
    attention: AttentionConfig
    cross_attention: AttentionConfig | None = None
    """To the context's memory, between self-attention and the feed-forward layers."""
    feed_forward: FeedForwardConfig
    norm: NormConfig
    dropout: float
    """Of each sublayer's output."""
    initializer: nn.initializers.Initializer
    output_initializer: nn.initializers.Initializer
    """For the two projections that write to the residual stream."""
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class BodyConfig:
    """What a network has besides its stack of blocks."""

    embedding_size: int | None = None
    """Width of the tables of embeddings; None is that of the hidden states. Where it is another
    one, a projection follows them, and a language model head that reads the table (a masked one:
    a tied causal head has nothing to come down with) ends at the table's width."""
    position_rows: int = 0
    """Rows of a table of learned positions; 0 where positions come in with attention."""
    position_offset: int = 0
    """Rows of that table before the one of the first position."""
    type_rows: int = 0
    """Rows of a table of token types; 0 has none."""
    embedding_scale: float = 1.0
    """What token embeddings are multiplied by."""
    embedding_norm: bool = False
    """A norm of the embeddings."""
    final_norm: bool = False
    """A norm after the last block."""
    final_dropout: bool = False
    """Dropout after that norm."""
    pooler: bool = False
    """A dense tanh layer over the first token."""
    tied: bool = True
    """The token embedding is the language model head's projection, too."""
    head_scale: float = 1.0
    """What the hidden states are multiplied by before that projection."""
    fill_scale: float = 1.0
    """The same of a masked language model's head, whose norm is right before the table."""
