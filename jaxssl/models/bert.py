"""BERT (Devlin et al., 2018) and its kin: bidirectional encoders with norms after each sublayer.

RoBERTa (Liu et al., 2019) counts positions from 2 and has no next sentence; DistilBERT (Sanh et
al., 2019) has no token types either, and half the layers. The network is the same.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn

from jaxssl.core.bounds import check_at_least
from jaxssl.models.config import BodyConfig, NormConfig
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.models.layers import truncated_normal
from jaxssl.models.transformer import ModelConfig
from jaxssl.ops.activations import Activation


@dataclass(frozen=True, kw_only=True)
class BertConfig(ModelConfig):
    """The shape of a BERT encoder."""

    name: Literal["bert"] = "bert"
    vocab_size: int = 30522
    position_offset: int = 0
    """Rows of the position table before that of the first position; RoBERTa has 2."""
    type_vocab_size: int = 2
    """Token types (first and second sentence); 0 has none."""
    activation: Activation = "gelu_tanh"
    """`gelu_tanh` as in the original code; `gelu` (erf) as in Hugging Face's weights."""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_epsilon: float = 1e-12
    initializer_range: float = 0.02
    """Scale of the truncated normal that kernels and embeddings start from."""
    pooler: bool = True
    """A dense tanh layer over the first token, as in the published models."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "type_vocab_size", "position_offset")

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return truncated_normal(self.initializer_range)

    def norm(self) -> NormConfig:
        """After each sublayer."""
        return NormConfig(epsilon=self.norm_epsilon, place="post")

    def body(self) -> BodyConfig:
        """Learned positions, token types, a norm of the embeddings, and the pooler."""
        return BodyConfig(
            position_rows=self.position_offset + self.max_positions,
            position_offset=self.position_offset,
            type_rows=self.type_vocab_size,
            embedding_norm=True,
            pooler=self.pooler,
        )

    def task_head(self, scope: Scope) -> TaskHead:
        """The pooler is part of the body, so nothing."""
        del scope
        return TaskHead()


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(BertConfig):
    """The shape of a RoBERTa encoder."""

    name: Literal["roberta"] = "roberta"  # pyright: ignore[reportIncompatibleVariableOverride]
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
