"""Llama (Touvron et al., 2023) and its kin: causal decoders with root mean square norms, rotary
positions, gated feed-forward layers and heads of queries that share keys and values.

Mistral adds a window, Qwen2 biases on queries, keys and values, Qwen3 norms on queries and keys.
The network is the same.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.models.config import (
    AttentionConfig,
    BodyConfig,
    FeedForwardConfig,
    LayerType,
    NormConfig,
)
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.models.transformer import ModelConfig
from jaxssl.ops.activations import Activation
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.rotary import Llama3, Rotary, Scaling


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(ModelConfig):
    """The shape of a Llama decoder."""

    causal: ClassVar[bool] = True

    name: Literal["llama"] = "llama"
    vocab_size: int = 32000
    hidden_size: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    """Heads of queries."""
    num_kv_heads: int = 32
    """Heads of keys and values; they divide the heads of queries."""
    head_width: int | None = None
    """Width of a head; null is the width of the hidden states over the heads."""
    intermediate_size: int = 11008
    max_positions: int = 2048
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
    norm_epsilon: float = 1e-6

    def __post_init__(self):
        check_at_least(1, self, "num_kv_heads", "head_width", "window")
        check_at_least(0, self, "window_from")
        check_above_zero(self, "rotary_theta")
        super().__post_init__()

    def _check_heads(self) -> None:
        if self.head_width is None:
            super()._check_heads()
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

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width or super().head_dim

    def self_attention(self) -> AttentionConfig:
        """With rotary positions, and keys and values that heads share."""
        return dataclasses.replace(
            super().self_attention(),
            num_kv_heads=self.num_kv_heads,
            layers=self._layers(),
            qkv_bias=self.attention_bias != "none",
            output_bias=self.attention_bias == "all",
            qk_norm=self.qk_norm,
        )

    def feed_forward(self) -> FeedForwardConfig:
        """Gated."""
        return dataclasses.replace(super().feed_forward(), gated=True, bias=self.feed_forward_bias)

    def norm(self) -> NormConfig:
        """Of the root mean square, before each sublayer."""
        return NormConfig(type="rms", epsilon=self.norm_epsilon)

    def _layers(self) -> tuple[LayerType, ...]:
        """The type of each layer."""
        rotary = Rotary(self.rotary_theta, self.rotary_scaling)
        window = None if self.window is None else self.window - 1  # besides the token itself
        full = LayerType(Pattern(causal=True), rotary)
        windowed = LayerType(Pattern(causal=True, window=window), rotary)
        return tuple(
            windowed if layer >= self.window_from else full for layer in range(self.num_layers)
        )

    def body(self) -> BodyConfig:
        """A norm at the end; positions come in with attention."""
        return BodyConfig(final_norm=True, tied=self.tied)

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a projection without bias."""
        return TaskHead(output_bias=scope != "row")


@dataclass(frozen=True, kw_only=True)
class MistralConfig(LlamaConfig):
    """The shape of a Mistral decoder (Jiang et al., 2023)."""

    name: Literal["mistral"] = "mistral"  # pyright: ignore[reportIncompatibleVariableOverride]
    num_kv_heads: int = 8
    intermediate_size: int = 14336
    max_positions: int = 32768
    window: int | None = 4096
    norm_epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class Qwen2Config(LlamaConfig):
    """The shape of a Qwen2 decoder (Yang et al., 2024)."""

    name: Literal["qwen2"] = "qwen2"  # pyright: ignore[reportIncompatibleVariableOverride]
    vocab_size: int = 151936
    max_positions: int = 32768
    rotary_theta: float = 1_000_000.0
    attention_bias: Literal["none", "qkv", "all"] = "qkv"


@dataclass(frozen=True, kw_only=True)
class Qwen3Config(LlamaConfig):
    """The shape of a Qwen3 decoder (Yang et al., 2025)."""

    name: Literal["qwen3"] = "qwen3"  # pyright: ignore[reportIncompatibleVariableOverride]
    vocab_size: int = 151936
    head_width: int | None = 128
    max_positions: int = 40960
    rotary_theta: float = 1_000_000.0
    qk_norm: bool = True


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
