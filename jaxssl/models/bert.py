"""BERT (Devlin et al., 2018) and its kin: bidirectional encoders with norms after each sublayer.

RoBERTa (Liu et al., 2019) counts positions from 2 and has no next sentence; DistilBERT (Sanh et
al., 2019) has no token types either, and half the layers. The network is the same.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.blocks import BlockConfig, Context
from jaxssl.models.checks import check_heads, check_rates, check_sizes
from jaxssl.models.heads import Head, Scope, TaskHead, head_name, make_head
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
    position_offset: int = 0
    """Rows of the position table before that of the first position; RoBERTa has 2."""
    type_vocab_size: int = 2
    """Token types (first and second sentence); 0 has none."""
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
        check_at_least(0, self, "type_vocab_size", "position_offset")
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
            num_kv_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """The pooler is part of the body, so nothing."""
        del scope
        return TaskHead()


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The shape of a RoBERTa encoder."""

    name: Literal["roberta"] = "roberta"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The family."""
    vocab_size: int = 50265
    """Rows of the token embedding; at least the tokenizer's size."""
    position_offset: int = 2
    """Rows of the position table before that of the first position."""
    type_vocab_size: int = 1
    """Token types; there is one alone, for all tokens."""
    activation: Activation = "gelu"
    """RoBERTa uses the exact form."""
    norm_epsilon: float = 1e-5
    """Added to the variance in each norm."""
    pooler: bool = False
    """A dense tanh layer over the first token; the published heads bring their own."""

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a dense tanh layer."""
        return TaskHead(transform="tanh" if scope == "row" else None)


@dataclass(frozen=True, kw_only=True)
class DistilBertConfig(BertConfig):
    """The shape of a DistilBERT encoder."""

    name: Literal["distilbert"] = "distilbert"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The family."""
    num_layers: int = 6
    """Number of transformer blocks."""
    type_vocab_size: int = 0
    """Token types; DistilBERT has none."""
    activation: Activation = "gelu"
    """DistilBERT uses the exact form."""
    pooler: bool = False
    """A dense tanh layer over the first token; DistilBERT has none."""

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a dense layer with a rectifier."""
        return TaskHead(transform="relu" if scope == "row" else None)


PRESETS = {
    "tiny": BertConfig(num_layers=2, hidden_size=128, num_heads=2, intermediate_size=512),
    "mini": BertConfig(num_layers=4, hidden_size=256, num_heads=4, intermediate_size=1024),
    "small": BertConfig(num_layers=4, hidden_size=512, num_heads=8, intermediate_size=2048),
    "medium": BertConfig(num_layers=8, hidden_size=512, num_heads=8, intermediate_size=2048),
    "base": BertConfig(),
    "large": BertConfig(num_layers=24, hidden_size=1024, num_heads=16, intermediate_size=4096),
}
"""The published sizes (Turc et al., 2019, and the original two)."""

ROBERTA_PRESETS = {
    "base": RobertaConfig(),
    "large": RobertaConfig(num_layers=24, hidden_size=1024, num_heads=16, intermediate_size=4096),
}
DISTILBERT_PRESETS = {"base": DistilBertConfig()}


class BertEmbeddings(nn.Module):
    """Sum of token, position and type embeddings, normalised."""

    config: BertConfig
    precision: Precision

    def setup(self):
        c, p = self.config, self.precision
        table = lambda size, axis: Embedding(size, c.hidden_size, (axis, "embed"), c.initializer, p)
        self.tokens = table(c.vocab_size, "vocab")
        self.positions = table(c.position_offset + c.max_positions, "positions")
        if c.type_vocab_size:
            self.token_types = table(c.type_vocab_size, None)
        self.norm = LayerNorm(c.norm_epsilon, p)

    def __call__(self, batch: Batch) -> jax.Array:
        c, tokens = self.config, batch["tokens"]
        x = self.tokens(tokens) + self.positions(batch["positions"] + c.position_offset)
        if c.type_vocab_size:
            types = batch.get("token_types", jnp.zeros_like(tokens))
            x = x + self.token_types(jnp.minimum(types, c.type_vocab_size - 1))
        return dropout(self.norm(x), c.dropout, dropout_rng(self))


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
