"""The families that Hugging Face directories are read and written for. A new one is one file, and a
line here."""

from typing import Any

from jaxssl.checkpoint.hf.bert import BERT, DISTILBERT_FAMILY, ROBERTA
from jaxssl.checkpoint.hf.gpt2 import GPT2
from jaxssl.checkpoint.hf.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from jaxssl.checkpoint.hf.mapping import Family
from jaxssl.checkpoint.hf.modernbert import MODERNBERT

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        BERT,
        ROBERTA,
        DISTILBERT_FAMILY,
        MODERNBERT,
        GPT2,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
    )
}
"""By `model_type`, which is our name of the family too."""


def family_of(config: Any) -> Family:
    """The family of one of our configurations."""
    return FAMILIES[config.name]
