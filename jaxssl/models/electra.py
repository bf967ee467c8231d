"""ELECTRA (Clark et al., 2020): BERT's encoder, whose embeddings may be narrower than its hidden
states; pretrained to tell replaced tokens from original ones."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from jaxssl.core.bounds import check_at_least
from jaxssl.models.bert import BertConfig
from jaxssl.models.config import BodyConfig
from jaxssl.models.heads import Scope, TaskHead
from jaxssl.ops.activations import Activation


@dataclass(frozen=True, kw_only=True)
class ElectraConfig(BertConfig):
    """The shape of an ELECTRA encoder, a discriminator or a generator."""

    name: Literal["electra"] = "electra"  # pyright: ignore[reportIncompatibleVariableOverride]
    embedding_size: int = 128
    """Width of the embeddings; where it is not `hidden_size`, a dense layer follows them."""
    hidden_size: int = 256
    """Width of the hidden states."""
    num_heads: int = 4
    """Attention heads; they divide the width."""
    intermediate_size: int = 1024
    """Width of the feed-forward layers."""
    activation: Activation = "gelu"
    """ELECTRA uses the exact form."""
    pooler: bool = False
    """A dense tanh layer over the first token; ELECTRA has none."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "embedding_size")

    def body(self) -> BodyConfig:
        """BERT's, with embeddings of a width of their own."""
        return dataclasses.replace(super().body(), embedding_size=self.embedding_size)

    def task_head(self, scope: Scope) -> TaskHead:
        """Of a row a dense layer with the exact GELU."""
        return TaskHead(transform="gelu" if scope == "row" else None)


PRESETS = {
    "small": ElectraConfig(),
    "base": ElectraConfig(
        embedding_size=768, hidden_size=768, num_heads=12, intermediate_size=3072
    ),
    "large": ElectraConfig(
        embedding_size=1024,
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        intermediate_size=4096,
    ),
}
"""The published discriminators. The paper's generators are a quarter to a third as wide, with
embeddings of the same width."""
