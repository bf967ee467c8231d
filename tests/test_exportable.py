"""What will not export is told when a run begins."""

import dataclasses

import pytest
import toy

from jaxssl import exportable
from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer_loading import SentencePieceTokenizer
from jaxssl.models.bert import BertConfig, RobertaConfig
from jaxssl.models.gpt2 import Gpt2Config
from jaxssl.models.llama import LlamaConfig, Qwen2Config, Qwen3Config
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate import Relate

SIZES = dict(vocab_size=400, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
GROUPED = {**SIZES, "num_kv_heads": 1}
BERT = BertConfig(**SIZES, max_positions=32)
CLASSES = Classify(labels=("a", "b"), pooling="cls")


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece", 400)


@pytest.mark.parametrize(
    ("model", "heads", "name"),
    [
        (BERT, ("masked_lm",), "BertForMaskedLM"),
        (BERT, ("masked_lm", "next_sentence"), "BertForPreTraining"),
        (ModernBertConfig(**SIZES, max_positions=32), ("masked_lm",), "ModernBertForMaskedLM"),
        (Gpt2Config(**SIZES, max_positions=32), ("causal_lm",), "GPT2LMHeadModel"),
        (Qwen3Config(**GROUPED, max_positions=32), ("causal_lm",), "Qwen3ForCausalLM"),
    ],
)
def test_language_models_have_their_classes_and_nothing_is_told(model, heads, name, tokenizer):
    assert exportable.hf_class(model, heads, None, tokenizer).name == name
    assert exportable.notes(model, heads, None, tokenizer) == []


@pytest.mark.parametrize(
    ("model", "task", "told"),
    [
        (BERT, dataclasses.replace(CLASSES, pooling="mean"), "task.pooling=cls"),
        (dataclasses.replace(BERT, pooler=False), CLASSES, "model.pooler=true"),
        (BERT, Relate(labels=("a", "b")), "task.name"),
        (BERT, Regress(pooling="max"), "task.pooling=cls"),
        (LlamaConfig(**GROUPED, max_positions=32, window=8), None, "model.window"),
        (LlamaConfig(**GROUPED, max_positions=32, attention_bias="qkv"), None, "attention_bias"),
        (RobertaConfig(**SIZES, max_positions=32), None, "model.position_offset"),
        (Qwen2Config(**GROUPED, max_positions=32), None, "other tokens"),
    ],
)
def test_what_no_class_has_is_told_in_a_line(model, task, told, tokenizer):
    heads = task.heads if task else ("causal_lm" if model.causal else "masked_lm",)
    (line,) = exportable.notes(model, heads, task, tokenizer)
    assert line.startswith("note: it will not export to transformers") and told in line
    assert "None" not in line.replace("=None", "")
    if told != "other tokens":  # that is found when the tokenizer is written
        with pytest.raises(UserError):
            exportable.hf_class(model, heads, task, tokenizer)


def test_a_tokenizer_that_takes_no_padding_token_is_told():
    ours = toy.train_toy_tokenizer("sentencepiece_bpe", 120)
    pieces = SentencePieceTokenizer("sp", ours.files["tokenizer.model"])
    pieces.special_ids = {**pieces.special_ids, "pad": None}  # as Llama's model has none
    model, task = (
        Gpt2Config(**SIZES, max_positions=32),
        dataclasses.replace(CLASSES, pooling="last"),
    )
    (line,) = exportable.notes(model, task.heads, task, pieces)
    assert "tokens cannot be added to this tokenizer" in line


def test_a_note_that_cannot_be_made_ends_no_run(tokenizer, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(exportable.tempfile, "TemporaryDirectory", full)
    (line,) = exportable.notes(BERT, ("masked_lm",), None, tokenizer)
    assert "could not be found out: OSError: no space left" in line
