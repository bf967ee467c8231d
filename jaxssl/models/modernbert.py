"""ModernBERT (Warner et al., 2024): a bidirectional encoder with rotary positions, gated
feed-forward layers, no biases, and attention that is local in two layers of three."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.models.config import (
    AttentionConfig,
    BodyConfig,
    FeedForwardConfig,
    LayerType,
    NormConfig,
)
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.models.layers import truncated_normal
from jaxssl.models.transformer import ModelConfig
from jaxssl.ops.activations import Activation
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(ModelConfig):
    """The shape of a ModernBERT encoder."""

    name: Literal["modernbert"] = "modernbert"
    vocab_size: int = 50368
    num_layers: int = 22
    intermediate_size: int = 1152
    max_positions: int = 8192
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
    initializer_range: float = 0.02
    """Scale of the truncated normal that kernels and embeddings start from; residual outputs start
    smaller."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "global_every", "local_window")
        check_above_zero(self, "global_theta", "local_theta")

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return truncated_normal(self.initializer_range)

    @property
    def output_initializer(self) -> nn.initializers.Initializer:
        """Residual outputs start at 1 / sqrt(2 x layers)."""
        return truncated_normal(self.initializer_range / math.sqrt(2 * self.num_layers))

    def self_attention(self) -> AttentionConfig:
        """Local but for some layers, without biases."""
        full = LayerType(Pattern(), Rotary(self.global_theta))
        local = LayerType(Pattern(window=self.local_window), Rotary(self.local_theta))
        layers = [local if i % self.global_every else full for i in range(self.num_layers)]
        return dataclasses.replace(
            super().self_attention(), layers=tuple(layers), qkv_bias=False, output_bias=False
        )

    def feed_forward(self) -> FeedForwardConfig:
        """Gated, without biases."""
        return dataclasses.replace(super().feed_forward(), gated=True, bias=False)

    def norm(self) -> NormConfig:
        """Without biases; none before the first attention, for the embeddings were normalised."""
        return NormConfig(type="layer_without_bias", epsilon=self.norm_epsilon, first=False)

    def body(self) -> BodyConfig:
        """A norm of the embeddings and one at the end; positions come in with attention."""
        return BodyConfig(embedding_norm=True, final_norm=True)

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
