"""A family that Hugging Face directories are read and written for."""

from dataclasses import dataclass, fields, replace
from typing import Literal

from jaxssl import ModelConfig, register
from jaxssl.checkpoint.hf.bert import BERT
from jaxssl.checkpoint.hf.mapping import Family
from jaxssl.models.bert import BertConfig


@dataclass(frozen=True, kw_only=True)
class TheirBertConfig(BertConfig):
    """BERT, by another name."""

    name: Literal["their_bert"] = "their_bert"


def read(given, names):
    """Their configuration as ours."""
    found = BERT.read_config(given, names)
    values = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "name"}
    return TheirBertConfig(**values)


register(ModelConfig, TheirBertConfig)
register(Family, replace(BERT, model_type="their_bert", read_config=read))
