"""Llama (Touvron et al., 2023) and its kin: causal decoders with root mean square norms, rotary
positions, gated feed-forward layers and heads of queries that share keys and values.

Mistral adds a window, Qwen2 biases on queries, keys and values, Qwen3 norms on queries and keys.
The network is the same.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.blocks import BlockConfig, Context, LayerKind, make_norm
from jaxssl.models.checks import check_heads, check_rates, check_sizes
from jaxssl.models.heads import Head, Scope, TaskHead, head_name, make_head
from jaxssl.models.layers import Embedding, dropout_rng
from jaxssl.models.stack import Remat, Stack, check_segments
from jaxssl.ops.activations import Activation
from jaxssl.ops.dropout import dropout
from jaxssl.ops.rotary import Llama3, Rotary, Scaling


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The shape of a Llama decoder."""

    name: Literal["llama"] = "llama"
    """The family."""
    vocab_size: int = 32000
    """Rows of the token embedding; at least the tokenizer's size."""
    hidden_size: int = 4096
    """Width of the hidden states."""
    num_layers: int = 32
    """Number of transformer blocks."""
    num_heads: int = 32
    """Heads of queries."""
    num_kv_heads: int = 32
    """Heads of keys and values; they divide the heads of queries."""
    head_width: int | None = None
    """Width of a head; null is the width of the hidden states over the heads."""
    intermediate_size: int = 11008
    """Width of the feed-forward layers."""
    max_positions: int = 2048
    """Longest sequence, in tokens."""
    tied: bool = False
    """Use the token embedding as the output projection, too."""
    rotary_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rotary_scaling: Scaling | None = None
    """How rotary frequencies are stretched over texts longer than those of pretraining."""
    window: int | None = None
    """How many tokens a token sees, itself included; null sees all before it."""
    window_from: int = 0
    """The first layer that has the window; the layers below see everything."""
    attention_bias: Literal["none", "qkv", "all"] = "none"
    """Biases on queries, keys and values, and with `all` on attention's output."""
    feed_forward_bias: bool = False
    """Biases in the feed-forward layers."""
    qk_norm: bool = False
    """Normalise each head of queries and keys."""
    activation: Activation = "silu"
    """Of the gate."""
    dropout: float = 0.0
    """Dropout on embeddings and on each sublayer's output."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    norm_epsilon: float = 1e-6
    """Added to the mean square in each norm."""
    initializer_range: float = 0.02
    """Scale of the normal that kernels and embeddings start from."""
    segments: tuple[int, ...] = ()
    """Sizes of the groups of layers that are scanned together; empty means one group of all."""
    remat: Remat = "none"
    """What the backward pass computes again, to save memory."""
    unroll: bool = False
    """Compile the layers one by one instead of a loop: slower to compile, sometimes faster to
    run."""

    def __post_init__(self):
        check_sizes(self)
        check_at_least(1, self, "num_kv_heads", "head_width", "window")
        check_at_least(0, self, "window_from")
        check_above_zero(self, "rotary_theta")
        if self.head_width is None:
            check_heads(self.hidden_size, self.num_heads)
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                "the heads of keys and values do not divide those of queries",
                where="num_kv_heads",
                expected=f"a divisor of num_heads={self.num_heads}",
                got=self.num_kv_heads,
            )
        if self.head_dim % 2:
            raise UserError(
                "rotary positions turn pairs of dimensions",
                where="head_width" if self.head_width else "hidden_size, num_heads",
                expected="an even width of a head",
                got=self.head_dim,
            )
        check_rates(dropout=self.dropout, attention_dropout=self.attention_dropout)
        check_segments(self.segments, self.num_layers)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or self.hidden_size // self.num_heads

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return nn.initializers.normal(self.initializer_range)

    def block(self, precision: Precision) -> BlockConfig:
        """The configuration of one block."""
        rotary = Rotary(self.rotary_theta, self.rotary_scaling)
        kinds, layer_kinds = (LayerKind(None, rotary),), ()
        if self.window is not None and self.window_from < self.num_layers:
            windowed = LayerKind(self.window - 1, rotary)
            kinds = (*kinds, windowed) if self.window_from else (windowed,)
            layer_kinds = tuple(int(i >= self.window_from) for i in range(self.num_layers))
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
            output_initializer=self.initializer,
            precision=precision,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            norm_type="rms",
            qkv_bias=self.attention_bias != "none",
            output_bias=self.attention_bias == "all",
            feed_forward_bias=self.feed_forward_bias,
            gated=True,
            qk_norm=self.qk_norm,
            kinds=kinds,
            layer_kinds=layer_kinds,
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a projection without bias."""
        return TaskHead(output_bias=scope != "row")


@dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """The shape of a Mistral decoder (Jiang et al., 2023)."""

    name: Literal["mistral"] = "mistral"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The family."""
    num_kv_heads: int = 8
    """Heads of keys and values; they divide the heads of queries."""
    intermediate_size: int = 14336
    """Width of the feed-forward layers."""
    max_positions: int = 32768
    """Longest sequence, in tokens."""
    window: int | None = 4096
    """How many tokens a token sees, itself included; null sees all before it."""
    norm_epsilon: float = 1e-5
    """Added to the mean square in each norm."""


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(LlamaConfig):
    """The shape of a Qwen2 decoder (Yang et al., 2024)."""

    name: Literal["qwen2"] = "qwen2"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The family."""
    vocab_size: int = 151936
    """Rows of the token embedding; at least the tokenizer's size."""
    max_positions: int = 32768
    """Longest sequence, in tokens."""
    rotary_theta: float = 1_000_000.0
    """Base of the rotary frequencies."""
    attention_bias: Literal["none", "qkv", "all"] = "qkv"
    """Biases on queries, keys and values, and with `all` on attention's output."""


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    """The shape of a Qwen3 decoder (Yang et al., 2025)."""

    name: Literal["qwen3"] = "qwen3"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The family."""
    vocab_size: int = 151936
    """Rows of the token embedding; at least the tokenizer's size."""
    head_width: int | None = 128
    """Width of a head; null is the width of the hidden states over the heads."""
    max_positions: int = 40960
    """Longest sequence, in tokens."""
    rotary_theta: float = 1_000_000.0
    """Base of the rotary frequencies."""
    qk_norm: bool = True
    """Normalise each head of queries and keys."""


LLAMA_PRESETS = {
    "1b": LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        num_layers=16,
        num_kv_heads=8,
        intermediate_size=8192,
        max_positions=131072,
        tied=True,
        rotary_theta=500_000.0,
        rotary_scaling=Llama3(factor=32.0),
        norm_epsilon=1e-5,
    ),
    "8b": LlamaConfig(
        vocab_size=128256,
        num_kv_heads=8,
        intermediate_size=14336,
        max_positions=131072,
        rotary_theta=500_000.0,
        rotary_scaling=Llama3(),
        norm_epsilon=1e-5,
    ),
}
"""Llama 3.2 1B and Llama 3.1 8B."""

MISTRAL_PRESETS = {"7b": MistralConfig()}
"""Mistral 7B v0.1."""

QWEN2_PRESETS = {
    "0.5b": Qwen2Config(
        hidden_size=896,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        intermediate_size=4864,
        tied=True,
    )
}
"""Qwen2 and Qwen2.5, 0.5B."""

QWEN3_PRESETS = {
    "0.6b": Qwen3Config(
        hidden_size=1024,
        num_layers=28,
        num_heads=16,
        num_kv_heads=8,
        intermediate_size=3072,
        tied=True,
    )
}
"""Qwen3 0.6B."""


class Llama(nn.Module):
    """The decoder and the heads named in `heads`."""

    config: LlamaConfig
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()

    def setup(self):
        c, p = self.config, self.precision
        self.embeddings = LlamaEmbeddings(c, p)
        segments = check_segments(c.segments, c.num_layers)
        self.decoder = Stack(c.block(p), segments, c.remat, c.unroll)
        self.norm = make_norm(c.block(p))
        for head in self.heads:
            setattr(self, head_name(head), make_head(head, c, p))

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, T, H] of `tokens`, `segment_ids`, `positions`."""
        context = Context(batch["segment_ids"], batch["positions"])
        return self.norm(self.decoder(self.embeddings(batch), context))

    def head(self, name: str, x: jax.Array) -> Any:
        """The output of one head."""
        return getattr(self, name)(x, self.embeddings.tokens)


class LlamaEmbeddings(nn.Module):
    """Token embeddings alone; positions come in with attention."""

    config: LlamaConfig
    precision: Precision

    def setup(self):
        c, p = self.config, self.precision
        size = (c.vocab_size, c.hidden_size)
        self.tokens = Embedding(*size, ("vocab", "embed"), c.initializer, p)

    def __call__(self, batch: Batch) -> jax.Array:
        return dropout(self.tokens(batch["tokens"]), self.config.dropout, dropout_rng(self))
