"""A family: BERT with its norms before the sublayers."""

from dataclasses import dataclass, replace
from typing import Literal

from jaxssl import ModelConfig, register
from jaxssl.models.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class PreBertConfig(BertConfig):
    """The shape of an encoder with norms before each sublayer (Xiong et al., 2020)."""

    name: Literal["pre_bert"] = "pre_bert"
    pooler: bool = False
    """A dense tanh layer over the first token."""

    def norm(self):
        """Before each sublayer."""
        return replace(super().norm(), place="pre")

    def body(self):
        """As BERT's, with a norm at the end."""
        return replace(super().body(), embedding_norm=False, final_norm=True)


register(ModelConfig, PreBertConfig)
