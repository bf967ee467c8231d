"""BART (Lewis et al., 2020) and mBART (Liu et al., 2020): encoder-decoders with learned positions.

BART has its norms after each sublayer; mBART has them before, one more at the end of each stack,
and scaled embeddings. Both have a table of positions and a norm of the embeddings for each side,
and one table of tokens for both, which is the output projection, too.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.models.config import BodyConfig, FeedForwardConfig, NormConfig
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.ops.activations import Activation


@dataclass(frozen=True, kw_only=True)
class BartConfig(EncoderDecoderConfig):
    """The shape of a BART."""

    name: Literal["bart"] = "bart"
    vocab_size: int = 50265
    num_layers: int = 6
    """Blocks of the encoder."""
    max_positions: int = 1024
    """Longest sequence of either side, in tokens."""
    position_offset: int = 2
    """Rows of the position tables before that of the first position."""
    decoder_start_token_id: int = 2
    activation: Activation = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    feed_forward_dropout: float = 0.1
    """Dropout inside the feed-forward layers."""
    scaled_embeddings: bool = False
    """Multiply token embeddings by the root of their width."""

    def __post_init__(self):
        check_at_least(0, self, "position_offset")
        check_share(self, "feed_forward_dropout")
        super().__post_init__()

    def feed_forward(self) -> FeedForwardConfig:
        """With dropout inside."""
        return dataclasses.replace(super().feed_forward(), dropout=self.feed_forward_dropout)

    def norm(self) -> NormConfig:
        """After each sublayer."""
        return NormConfig(epsilon=self.norm_epsilon, place="post")

    def body(self) -> BodyConfig:
        """Learned positions and a norm of the embeddings, on both sides."""
        return BodyConfig(
            position_rows=self.position_offset + self.max_positions,
            position_offset=self.position_offset,
            embedding_scale=math.sqrt(self.hidden_size) if self.scaled_embeddings else 1.0,
            embedding_norm=True,
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a dense tanh layer."""
        return TaskHead(transform="tanh" if scope == "row" else None)


@dataclass(frozen=True, kw_only=True)
class MBartConfig(BartConfig):
    """The shape of an mBART."""

    name: Literal["mbart"] = "mbart"  # pyright: ignore[reportIncompatibleVariableOverride]
    vocab_size: int = 250027
    hidden_size: int = 1024
    num_layers: int = 12
    num_heads: int = 16
    intermediate_size: int = 4096
    scaled_embeddings: bool = True

    def norm(self) -> NormConfig:
        """Before each sublayer."""
        return NormConfig(epsilon=self.norm_epsilon)

    def body(self) -> BodyConfig:
        """With a norm at the end of each stack."""
        return dataclasses.replace(super().body(), final_norm=True)


BART_PRESETS = {
    "base": BartConfig(),
    "large": BartConfig(hidden_size=1024, num_layers=12, num_heads=16, intermediate_size=4096),
}
"""The published sizes."""
MBART_PRESETS = {"large": MBartConfig()}
"""mBART-large cc25."""
