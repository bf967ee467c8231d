"""ModernBERT (Warner et al., 2024): a bidirectional encoder with rotary positions, gated
feed-forward layers, no biases, and attention that is local in two layers of three."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.blocks import BlockConfig, Context, LayerKind, make_norm
from jaxssl.models.checks import check_heads, check_rates, check_sizes
from jaxssl.models.heads import Head, Scope, TaskHead, head_name, make_head
from jaxssl.models.layers import Embedding, dropout_rng, truncated_normal
from jaxssl.models.stack import Remat, Stack, check_segments
from jaxssl.ops.activations import Activation
from jaxssl.ops.dropout import dropout
from jaxssl.ops.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig:
    """The shape of a ModernBERT encoder."""

    name: Literal["modernbert"] = "modernbert"
    """The family."""
    vocab_size: int = 50368
    """Rows of the token embedding; at least the tokenizer's size."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_layers: int = 22
    """Number of transformer blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    intermediate_size: int = 1152
    """Width of the feed-forward layers."""
    max_positions: int = 8192
    """Longest sequence, in tokens."""
    global_every: int = 3
    """Layer 0 and every so many layers after it attend to the whole text, the others nearby."""
    local_window: int = 64
    """How many tokens on each side the local layers see."""
    global_theta: float = 160_000.0
    """Base of the rotary frequencies in global layers."""
    local_theta: float = 10_000.0
    """The same in local layers."""
    activation: Activation = "gelu"
    """Of the gate, and of the heads."""
    dropout: float = 0.0
    """Dropout on embeddings and on each sublayer's output."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    norm_epsilon: float = 1e-5
    """Added to the variance in each norm."""
    initializer_range: float = 0.02
    """Scale of the truncated normal that kernels and embeddings start from; residual outputs start
    smaller."""
    segments: tuple[int, ...] = ()
    """Sizes of the groups of layers that are scanned together; empty means one group of all."""
    remat: Remat = "none"
    """What the backward pass computes again, to save memory."""
    unroll: bool = False
    """Compile the layers one by one instead of a loop: slower to compile, sometimes faster to
    run."""

    def __post_init__(self):
        check_sizes(self)
        check_heads(self.hidden_size, self.num_heads)
        check_at_least(1, self, "global_every", "local_window")
        check_above_zero(self, "global_theta", "local_theta")
        check_rates(dropout=self.dropout, attention_dropout=self.attention_dropout)
        check_segments(self.segments, self.num_layers)

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return truncated_normal(self.initializer_range)

    def block(self, precision: Precision) -> BlockConfig:
        """The configuration of one block; residual outputs start at 1 / sqrt(2 x layers)."""
        scale = self.initializer_range / math.sqrt(2 * self.num_layers)
        everywhere = LayerKind(None, Rotary(self.global_theta))
        nearby = LayerKind(self.local_window, Rotary(self.local_theta))
        is_local = [int(layer % self.global_every > 0) for layer in range(self.num_layers)]
        return BlockConfig(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            activation=self.activation,
            norm="pre",
            norm_epsilon=self.norm_epsilon,
            causal=False,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            initializer=self.initializer,
            output_initializer=truncated_normal(scale),
            precision=precision,
            num_kv_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
            norm_type="layer_without_bias",
            qkv_bias=False,
            output_bias=False,
            feed_forward_bias=False,
            gated=True,
            first_norm=False,  # the embeddings were normalised
            kinds=(everywhere, nearby),
            layer_kinds=tuple(is_local),
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """The layers of its masked language model, too."""
        if scope == "other":
            return TaskHead()
        return TaskHead(transform=self.activation, transform_bias=False, norm=True)


PRESETS = {
    "base": ModernBertConfig(),
    "large": ModernBertConfig(
        num_layers=28, hidden_size=1024, num_heads=16, intermediate_size=2624
    ),
}
"""The published sizes."""


class ModernBertEmbeddings(nn.Module):
    """Token embeddings, normalised; positions come in with attention."""

    config: ModernBertConfig
    precision: Precision

    def setup(self):
        c, p = self.config, self.precision
        size = (c.vocab_size, c.hidden_size)
        self.tokens = Embedding(*size, ("vocab", "embed"), c.initializer, p)
        self.norm = make_norm(c.block(p))

    def __call__(self, batch: Batch) -> jax.Array:
        x = self.norm(self.tokens(batch["tokens"]))
        return dropout(x, self.config.dropout, dropout_rng(self))


class ModernBert(nn.Module):
    """The encoder and the heads named in `heads`."""

    config: ModernBertConfig
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()

    def setup(self):
        c, p = self.config, self.precision
        self.embeddings = ModernBertEmbeddings(c, p)
        segments = check_segments(c.segments, c.num_layers)
        self.encoder = Stack(c.block(p), segments, c.remat, c.unroll)
        self.norm = make_norm(c.block(p))
        for head in self.heads:
            setattr(self, head_name(head), make_head(head, c, p))

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, T, H] of `tokens`, `segment_ids`, `positions`."""
        context = Context(batch["segment_ids"], batch["positions"])
        return self.norm(self.encoder(self.embeddings(batch), context))

    def head(self, name: str, x: jax.Array) -> Any:
        """The output of one head."""
        return getattr(self, name)(x, self.embeddings.tokens)
