"""What will not export is told without exporting it."""

import dataclasses

import pytest
import toy

from jaxssl.commands import exportable
from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.loading import SentencePieceTokenizer
from jaxssl.models.bart import BartConfig
from jaxssl.models.bert import BertConfig, RobertaConfig
from jaxssl.models.electra import ElectraConfig
from jaxssl.models.gpt2 import Gpt2Config
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM, NEXT_SENTENCE, REPLACED_TOKENS
from jaxssl.models.llama import LlamaConfig, Qwen2Config, Qwen3Config
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.models.t5 import T5Config
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.task import Relate
from jaxssl.tasks.seq2seq import Seq2seq

SIZES = dict(vocab_size=400, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24)
GROUPED = {**SIZES, "num_kv_heads": 1}
BERT = BertConfig(**SIZES, max_positions=32)
ELECTRA = ElectraConfig(**SIZES, embedding_size=8, max_positions=32)
CLASSES = Classify(labels=("a", "b"), pooling="cls")


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece", 400)


@pytest.mark.parametrize(
    ("model", "heads", "name"),
    [
        (BERT, (MASKED_LM,), "BertForMaskedLM"),
        (BERT, (MASKED_LM, NEXT_SENTENCE), "BertForPreTraining"),
        (ELECTRA, (MASKED_LM,), "ElectraForMaskedLM"),
        (ELECTRA, (REPLACED_TOKENS,), "ElectraForPreTraining"),
        (ModernBertConfig(**SIZES, max_positions=32), (MASKED_LM,), "ModernBertForMaskedLM"),
        (Gpt2Config(**SIZES, max_positions=32), (CAUSAL_LM,), "GPT2LMHeadModel"),
        (Qwen3Config(**GROUPED, max_positions=32), (CAUSAL_LM,), "Qwen3ForCausalLM"),
    ],
)
def test_language_models_have_their_classes_and_nothing_is_told(model, heads, name, tokenizer):
    assert exportable.hf_class(model, heads, None, tokenizer).name == name
    assert exportable.check_exportable(model, heads, None, tokenizer).name == name


@pytest.mark.parametrize(
    ("model", "task", "told"),
    [
        (BERT, dataclasses.replace(CLASSES, pooling="mean"), "task.pooling=cls"),
        (dataclasses.replace(BERT, pooler=False), CLASSES, "model.pooler=true"),
        (BERT, Relate(labels=("a", "b")), "task.name"),
        (Gpt2Config(**SIZES, max_positions=32), Seq2seq(), "task.prefix_visible=false"),
        (T5Config(**SIZES, part="encoder"), CLASSES, "the encoder of a t5 with row"),
        (BartConfig(**SIZES, part="encoder"), CLASSES, "the encoder of a bart with row"),
        (BERT, Regress(pooling="max"), "task.pooling=cls"),
        (dataclasses.replace(ELECTRA, pooler=True), None, "model.pooler"),
        (dataclasses.replace(ELECTRA, activation="gelu_tanh"), None, "model.activation"),
        (dataclasses.replace(ELECTRA, type_vocab_size=0), None, "model.type_vocab_size"),
        (LlamaConfig(**GROUPED, max_positions=32, window=8), None, "model.window"),
        (LlamaConfig(**GROUPED, max_positions=32, attention_bias="qkv"), None, "attention_bias"),
        (RobertaConfig(**SIZES, max_positions=32), None, "model.position_offset"),
        (Qwen2Config(**GROUPED, max_positions=32), None, "other tokens"),
    ],
)
def test_what_no_class_has_is_refused_with_what_would_have_one(model, task, told, tokenizer):
    heads = task.heads if task else (CAUSAL_LM if model.causal else MASKED_LM,)
    with pytest.raises(UserError) as error:
        exportable.check_exportable(model, heads, task, tokenizer)
    assert told in str(error.value)
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
    with pytest.raises(UserError, match="tokens cannot be added to this tokenizer"):
        exportable.check_exportable(model, task.heads, task, pieces)
