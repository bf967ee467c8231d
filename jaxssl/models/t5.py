"""T5 (Raffel et al., 2020), T5 1.1 and their kin (FLAN, mT5): an encoder-decoder with root mean
square norms, no biases, and a learned bias for distances instead of positions.

1.0 has ReLU and a tied head; 1.1 gated feed-forward layers and a head of its own. Scores are not
scaled: the queries' kernels start smaller instead.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.models.config import (
    AttentionConfig,
    BodyConfig,
    FeedForwardConfig,
    NormConfig,
    RelativePositions,
)
from jaxssl.models.encoder_decoder import DECODER, EncoderDecoderConfig
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.ops.activations import Activation
from jaxssl.ops.pooling import Pooling


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    """The shape of a T5."""

    name: Literal["t5"] = "t5"
    vocab_size: int = 32128
    hidden_size: int = 512
    num_layers: int = 6
    """Blocks of the encoder."""
    num_heads: int = 8
    head_width: int = 64
    """Width of a head."""
    intermediate_size: int = 2048
    max_positions: int = 512
    """Longest sequence of either side that is accepted, in tokens; no parameter depends on it."""
    activation: Activation = "relu"
    gated: bool = False
    """Gated feed-forward layers (1.1)."""
    tied: bool = True
    """Use the token embedding as the output projection, too (1.0)."""
    scaled_head: bool = True
    """Multiply hidden states by 1 / sqrt(width) before the output projection (1.0)."""
    relative_buckets: int = 32
    """Distances that are told apart."""
    relative_max_distance: int = 128
    """Distances from here on are one, in tokens."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    feed_forward_dropout: float = 0.1
    """Dropout inside the feed-forward layers."""
    norm_epsilon: float = 1e-6
    initializer_range: float = 1.0
    """Factor of all scales that parameters start from: 1 of the embeddings, 1 / sqrt(inputs) of
    kernels."""

    def __post_init__(self):
        check_at_least(1, self, "head_width")
        check_at_least(2, self, "relative_buckets", "relative_max_distance")
        check_share(self, "feed_forward_dropout")
        super().__post_init__()

    def _check_heads(self) -> None:
        """Their width is given."""

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.head_width

    @property
    def embedding_initializer(self) -> nn.initializers.Initializer:
        """Of scale 1."""
        return nn.initializers.normal(self.initializer_range)

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of scale 1 / sqrt(width of what is read)."""
        return nn.initializers.normal(self.initializer_range * self.hidden_size**-0.5)

    @property
    def output_initializer(self) -> nn.initializers.Initializer:
        """Likewise, of the two projections that read another width."""
        factor = self.initializer_range

        def start(key: jax.Array, shape: tuple[int, ...], dtype: jax.typing.DTypeLike = float):
            deviation = factor / math.sqrt(math.prod(shape[:-1]))
            return nn.initializers.normal(deviation)(key, shape, dtype)

        return start

    @property
    def row_pooling(self) -> Pooling:
        """Of an encoder the mean of its tokens: none stands before them (Ni et al., 2022)."""
        return "last" if self.causal else "mean"

    def attention_of(self, stack: str) -> AttentionConfig:
        """With distances, of the decoder to what is before a token; scores are not scaled."""
        deviation = self.initializer_range * self.hidden_size**-0.5
        return dataclasses.replace(
            super().attention_of(stack),
            qkv_bias=False,
            output_bias=False,
            scale=1.0,
            query_initializer=nn.initializers.normal(deviation * self.head_width**-0.5),
            relative=RelativePositions(
                self.relative_buckets,
                self.relative_max_distance,
                stack != DECODER,
                deviation,
            ),
        )

    def feed_forward(self) -> FeedForwardConfig:
        """Without biases."""
        return dataclasses.replace(
            super().feed_forward(),
            gated=self.gated,
            bias=False,
            dropout=self.feed_forward_dropout,
        )

    def norm(self) -> NormConfig:
        """Of the root mean square, before each sublayer."""
        return NormConfig(type="rms", epsilon=self.norm_epsilon)

    def body(self) -> BodyConfig:
        """A norm at the end of both stacks."""
        return BodyConfig(
            final_norm=True,
            final_dropout=True,
            tied=self.tied,
            head_scale=self.hidden_size**-0.5 if self.scaled_head else 1.0,
            fill_scale=self.hidden_size**-0.5,  # the table has scale 1
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a dense layer before the outputs, as `T5ForSequenceClassification`."""
        return TaskHead(transform="tanh" if scope == "row" else None)


@dataclass(frozen=True, kw_only=True)
class MT5Config(T5Config):
    """The shape of an mT5 (Xue et al., 2021): that of T5 1.1, for more pieces."""

    name: Literal["mt5"] = "mt5"  # pyright: ignore[reportIncompatibleVariableOverride]
    vocab_size: int = 250112
    num_layers: int = 8
    """Blocks of the encoder."""
    num_heads: int = 6
    intermediate_size: int = 1024
    activation: Activation = "gelu_tanh"
    gated: bool = True
    """Gated feed-forward layers."""
    tied: bool = False
    """Use the token embedding as the output projection, too."""
    scaled_head: bool = False
    """Multiply hidden states by 1 / sqrt(width) before the output projection."""


V1_0 = T5Config()
V1_1 = T5Config(
    activation="gelu_tanh",
    gated=True,
    tied=False,
    scaled_head=False,
    num_layers=8,
    num_heads=6,
    intermediate_size=1024,
)
PRESETS = {
    "1.0-small": V1_0,
    "1.0-base": dataclasses.replace(
        V1_0, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=3072
    ),
    "1.0-large": dataclasses.replace(
        V1_0, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096
    ),
    "1.1-small": V1_1,
    "1.1-base": dataclasses.replace(
        V1_1, hidden_size=768, num_layers=12, num_heads=12, intermediate_size=2048
    ),
    "1.1-large": dataclasses.replace(
        V1_1, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=2816
    ),
}
"""The published sizes."""
