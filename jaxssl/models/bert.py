"""BERT (Devlin et al., 2018): a bidirectional encoder with norms after each sublayer."""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.blocks import BlockConfig, Context
from jaxssl.models.heads import Head, head_name, make_head
from jaxssl.models.layers import Embedding, LayerNorm, Projection, dropout_rng, truncated_normal
from jaxssl.models.stack import Remat, Stack, check_segments
from jaxssl.ops.activations import Activation
from jaxssl.ops.dropout import dropout


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """The shape of a BERT encoder."""

    name: Literal["bert"] = "bert"
    """The family."""
    vocab_size: int = 30522
    """Rows of the token embedding; at least the tokenizer's size."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_layers: int = 12
    """Number of transformer blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    max_positions: int = 512
    """Longest sequence, in tokens."""
    type_vocab_size: int = 2
    """Token types (first and second sentence)."""
    activation: Activation = "gelu_tanh"
    """`gelu_tanh` as in the original code; `gelu` (erf) as in Hugging Face's weights."""
    dropout: float = 0.1
    """Dropout on embeddings and on each sublayer's output."""
    attention_dropout: float = 0.1
    """Dropout on attention weights."""
    norm_epsilon: float = 1e-12
    """Added to the variance in each norm."""
    initializer_range: float = 0.02
    """Scale of the truncated normal that kernels and embeddings start from."""
    pooler: bool = True
    """A dense tanh layer over the first token, as in the published models."""
    segments: tuple[int, ...] = ()
    """Sizes of the groups of layers that are scanned together; empty means one group of all."""
    remat: Remat = "none"
    """What the backward pass computes again, to save memory."""
    unroll: bool = False
    """Compile the layers one by one instead of a loop: slower to compile, sometimes faster to
    run."""

    def __post_init__(self):
        check_sizes(self)
        check_at_least(1, self, "type_vocab_size")
        check_heads(self.hidden_size, self.num_heads)
        check_rates(dropout=self.dropout, attention_dropout=self.attention_dropout)
        check_segments(self.segments, self.num_layers)

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return truncated_normal(self.initializer_range)

    def block(self, precision: Precision) -> BlockConfig:
        """The configuration of one block."""
        return BlockConfig(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            intermediate_size=self.intermediate_size,
            activation=self.activation,
            norm="post",
            norm_epsilon=self.norm_epsilon,
            causal=False,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            initializer=self.initializer,
            output_initializer=self.initializer,
            precision=precision,
        )


def check_sizes(config: Any) -> None:
    """Refuses a shape (of this family or another) with a size below 1.

    Raises:
      UserError: names the first such field.
    """
    sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
    check_at_least(1, config, *sizes, "max_positions")
    check_above_zero(config, "norm_epsilon", "initializer_range")


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Refuses a width that the heads do not divide.

    Raises:
      UserError: always names the widths that would fit.
    """
    if num_heads < 1 or hidden_size % num_heads:
        below = hidden_size - hidden_size % max(num_heads, 1)
        raise UserError(
            "the heads do not divide the width",
            where="num_heads",
            expected=f"a divisor of hidden_size={hidden_size}",
            got=num_heads,
            fix=f"use hidden_size={below or num_heads} or another number of heads",
        )


def check_rates(**rates: float) -> None:
    """Refuses dropout rates outside [0, 1).

    Raises:
      UserError: names the first such rate.
    """
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(
                "a dropout rate is out of range",
                where=name,
                expected="at least 0 and below 1",
                got=rate,
            )


PRESETS = {
    "tiny": BertConfig(num_layers=2, hidden_size=128, num_heads=2, intermediate_size=512),
    "mini": BertConfig(num_layers=4, hidden_size=256, num_heads=4, intermediate_size=1024),
    "small": BertConfig(num_layers=4, hidden_size=512, num_heads=8, intermediate_size=2048),
    "medium": BertConfig(num_layers=8, hidden_size=512, num_heads=8, intermediate_size=2048),
    "base": BertConfig(),
    "large": BertConfig(num_layers=24, hidden_size=1024, num_heads=16, intermediate_size=4096),
}
"""The published sizes (Turc et al., 2019, and the original two)."""


class BertEmbeddings(nn.Module):
    """Sum of token, position and type embeddings, normalised."""

    config: BertConfig
    precision: Precision

    def setup(self):
        c, p = self.config, self.precision
        table = lambda size, axis: Embedding(size, c.hidden_size, (axis, "embed"), c.initializer, p)
        self.tokens = table(c.vocab_size, "vocab")
        self.positions = table(c.max_positions, "positions")
        self.token_types = table(c.type_vocab_size, None)
        self.norm = LayerNorm(c.norm_epsilon, p)

    def __call__(self, batch: Batch) -> jax.Array:
        token_types = batch.get("token_types", jnp.zeros_like(batch["tokens"]))
        x = self.tokens(batch["tokens"]) + self.positions(batch["positions"])
        x = self.norm(x + self.token_types(token_types))
        return dropout(x, self.config.dropout, dropout_rng(self))


class Bert(nn.Module):
    """The encoder, its pooler and the heads named in `heads`."""

    config: BertConfig
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()

    def setup(self):
        c, p = self.config, self.precision
        self.embeddings = BertEmbeddings(c, p)
        segments = check_segments(c.segments, c.num_layers)
        self.encoder = Stack(c.block(p), segments, c.remat, c.unroll)
        if c.pooler:
            self.pooler = Projection((c.hidden_size,), ("embed", None), c.initializer, p)
        for head in self.heads:
            setattr(self, head_name(head), make_head(head, c, p))

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, T, H] of `tokens`, `segment_ids`, `positions`, optional
        `token_types`."""
        context = Context(batch["segment_ids"], batch["positions"])
        return self.encoder(self.embeddings(batch), context)

    def pool(self, hidden: jax.Array) -> jax.Array:
        """The sentence vector [B, H]: a dense tanh layer over the first token."""
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def head(self, name: str, x: jax.Array) -> Any:
        """The output of one head."""
        return getattr(self, name)(x, self.embeddings.tokens)
