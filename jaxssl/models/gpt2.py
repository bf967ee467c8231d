"""GPT-2 (Radford et al., 2019): a causal decoder with norms before each sublayer and a tied
head."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.blocks import BlockConfig, Context
from jaxssl.models.checks import check_heads, check_rates, check_sizes
from jaxssl.models.heads import Head, Scope, TaskHead, head_name, make_head
from jaxssl.models.layers import Embedding, LayerNorm, dropout_rng
from jaxssl.models.stack import Remat, Stack, check_segments
from jaxssl.ops.activations import Activation
from jaxssl.ops.dropout import dropout


@dataclass(frozen=True, kw_only=True)
class Gpt2Config:
    """The shape of a GPT-2 decoder."""

    name: Literal["gpt2"] = "gpt2"
    """The family."""
    vocab_size: int = 50257
    """Rows of the token embedding; at least the tokenizer's size. 50304 is faster on
    accelerators."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_layers: int = 12
    """Number of transformer blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    max_positions: int = 1024
    """Longest sequence, in tokens."""
    activation: Activation = "gelu_tanh"
    """GPT-2 uses the tanh approximation."""
    dropout: float = 0.1
    """Dropout on embeddings and on each sublayer's output."""
    attention_dropout: float = 0.1
    """Dropout on attention weights."""
    norm_epsilon: float = 1e-5
    """Added to the variance in each norm."""
    initializer_range: float = 0.02
    """Scale of the normal that kernels and embeddings start from; residual outputs start
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
        check_rates(dropout=self.dropout, attention_dropout=self.attention_dropout)
        check_segments(self.segments, self.num_layers)

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return nn.initializers.normal(self.initializer_range)

    def block(self, precision: Precision) -> BlockConfig:
        """The configuration of one block; residual outputs start at 1 / sqrt(2 x layers)."""
        scale = self.initializer_range / math.sqrt(2 * self.num_layers)
        return BlockConfig(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            activation=self.activation,
            norm="pre",
            norm_epsilon=self.norm_epsilon,
            causal=True,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            initializer=self.initializer,
            output_initializer=nn.initializers.normal(scale),
            precision=precision,
            num_kv_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a projection without bias."""
        return TaskHead(output_bias=scope != "row")


PRESETS = {
    "small": Gpt2Config(),
    "medium": Gpt2Config(num_layers=24, hidden_size=1024, num_heads=16, intermediate_size=4096),
    "large": Gpt2Config(num_layers=36, hidden_size=1280, num_heads=20, intermediate_size=5120),
    "xl": Gpt2Config(num_layers=48, hidden_size=1600, num_heads=25, intermediate_size=6400),
}
"""The published sizes."""


class Gpt2Embeddings(nn.Module):
    """Sum of token and position embeddings."""

    config: Gpt2Config
    precision: Precision

    def setup(self):
        c, p = self.config, self.precision
        table = lambda size, axis: Embedding(size, c.hidden_size, (axis, "embed"), c.initializer, p)
        self.tokens = table(c.vocab_size, "vocab")
        self.positions = table(c.max_positions, "positions")

    def __call__(self, batch: Batch) -> jax.Array:
        x = self.tokens(batch["tokens"]) + self.positions(batch["positions"])
        return dropout(x, self.config.dropout, dropout_rng(self))


class Gpt2(nn.Module):
    """The decoder and the heads named in `heads`."""

    config: Gpt2Config
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()

    def setup(self):
        c, p = self.config, self.precision
        self.embeddings = Gpt2Embeddings(c, p)
        segments = check_segments(c.segments, c.num_layers)
        self.decoder = Stack(c.block(p), segments, c.remat, c.unroll)
        self.norm = LayerNorm(c.norm_epsilon, p)
        for head in self.heads:
            setattr(self, head_name(head), make_head(head, c, p))

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, T, H] of `tokens`, `segment_ids`, `positions`."""
        context = Context(batch["segment_ids"], batch["positions"])
        return self.norm(self.decoder(self.embeddings(batch), context))

    def head(self, name: str, x: jax.Array) -> Any:
        """The output of one head."""
        return getattr(self, name)(x, self.embeddings.tokens)
