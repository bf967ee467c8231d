"""GPT-2 (Radford et al., 2019): a causal decoder with norms before each sublayer and a tied
head."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import flax.linen as nn

from jaxssl.models.config import BodyConfig
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.models.transformer import ModelConfig
from jaxssl.ops.activations import Activation


@dataclass(frozen=True, kw_only=True)
class Gpt2Config(ModelConfig):
    """The shape of a GPT-2 decoder."""

    causal: ClassVar[bool] = True

    name: Literal["gpt2"] = "gpt2"
    vocab_size: int = 50257
    """Rows of the token embedding; at least the tokenizer's size. 50304 is faster on
    accelerators."""
    max_positions: int = 1024
    activation: Activation = "gelu_tanh"
    """GPT-2 uses the tanh approximation."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    """Scale of the normal that kernels and embeddings start from; residual outputs start
    smaller."""

    @property
    def output_initializer(self) -> nn.initializers.Initializer:
        """Residual outputs start at 1 / sqrt(2 x layers)."""
        return nn.initializers.normal(self.initializer_range / math.sqrt(2 * self.num_layers))

    def body(self) -> BodyConfig:
        """Learned positions, and a norm at the end."""
        return BodyConfig(position_rows=self.max_positions, final_norm=True)

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
