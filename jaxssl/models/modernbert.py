"""ModernBERT (Warner et al., 2024): a bidirectional encoder with rotary positions, gated
feed-forward layers, no biases, and attention that is local in two layers of three."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.precision import Precision
from jaxssl.models.blocks import BlockConfig, LayerType
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.models.layers import truncated_normal
from jaxssl.models.transformer import Around, TransformerConfig
from jaxssl.ops.activations import Activation
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.rotary import Rotary


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(TransformerConfig):
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

    def block(self, precision: Precision) -> BlockConfig:
        """The configuration of one block; residual outputs start at 1 / sqrt(2 x layers)."""
        scale = self.initializer_range / math.sqrt(2 * self.num_layers)
        full = LayerType(Pattern(), Rotary(self.global_theta))
        local = LayerType(Pattern(window=self.local_window), Rotary(self.local_theta))
        return dataclasses.replace(
            super().block(precision),
            output_initializer=truncated_normal(scale),
            norm_type="layer_without_bias",
            qkv_bias=False,
            output_bias=False,
            feed_forward_bias=False,
            gated=True,
            first_norm=False,  # the embeddings were normalised
            layers=tuple(
                local if layer % self.global_every else full for layer in range(self.num_layers)
            ),
        )

    def around(self) -> Around:
        """A norm of the embeddings and one at the end; positions come in with attention."""
        return Around(embedding_norm=True, final_norm=True)

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
