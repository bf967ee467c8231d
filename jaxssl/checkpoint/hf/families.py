"""The families that Hugging Face directories are read and written for. A new one is one file, and a
line here."""

from typing import Any

from jaxssl.checkpoint.hf.bart import BART, MBART
from jaxssl.checkpoint.hf.bert import BERT, DISTILBERT_FAMILY, ROBERTA
from jaxssl.checkpoint.hf.electra import ELECTRA
from jaxssl.checkpoint.hf.gpt2 import GPT2
from jaxssl.checkpoint.hf.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from jaxssl.checkpoint.hf.mapping import Family
from jaxssl.checkpoint.hf.modernbert import MODERNBERT
from jaxssl.checkpoint.hf.t5 import MT5, T5
from jaxssl.core.errors import UserError
from jaxssl.core.registry import named, register

register(Family, BERT, ROBERTA, DISTILBERT_FAMILY, ELECTRA, MODERNBERT)
register(Family, GPT2, LLAMA, MISTRAL, QWEN2, QWEN3)
register(Family, T5, MT5, BART, MBART)
FAMILIES = named(Family)
"""By `model_type`, which is our name of the family too."""


def family_of(config: Any) -> Family:
    """The family of one of our configurations.

    Raises:
      UserError: nobody has said how Hugging Face would write it.
    """
    if config.name not in FAMILIES:
        raise UserError(
            "this family has no counterpart in transformers",
            where="model.name",
            expected=", ".join(FAMILIES),
            got=config.name,
            fix="register how its files are named: register(Family, ...), see docs/plugins.md",
        )
    return FAMILIES[config.name]
