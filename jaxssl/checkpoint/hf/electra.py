"""ELECTRA, whose generators and discriminators have classes of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.bert import ABSOLUTE, TIED, bert_body, check_types, masked_lm
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear
from jaxssl.models.electra import ElectraConfig

EXACT = {"gelu": "gelu", "gelu_python": "gelu"}
"""The one activation that is read and written: the generator's head and the classifier's have it
whatever `hidden_act` says, so a model with another one would be two networks."""
FIELDS = (
    Field("vocab_size", "vocab_size", 30522),
    Field("embedding_size", "embedding_size", 128),
    Field("hidden_size", "hidden_size", 256),
    Field("num_layers", "num_hidden_layers", 12),
    Field("num_heads", "num_attention_heads", 4),
    Field("intermediate_size", "intermediate_size", 1024),
    Field("max_positions", "max_position_embeddings", 512),
    Field("type_vocab_size", "type_vocab_size", 2),
    Field("activation", "hidden_act", "gelu", EXACT),
    Field("dropout", "hidden_dropout_prob", 0.1),
    Field("attention_dropout", "attention_probs_dropout_prob", 0.1),
    Field("norm_epsilon", "layer_norm_eps", 1e-12),
    Field("initializer_range", "initializer_range", 0.02),
)
FIXED = {**ABSOLUTE, **TIED, "add_cross_attention": False}


def _read(given: Mapping[str, Any], names: frozenset[str]) -> ElectraConfig:
    del names
    fields.expect(given, FIXED)
    return ElectraConfig(**fields.read(FIELDS, given))


def _write(config: ElectraConfig) -> dict[str, Any]:
    fields.check_written(config, position_offset=0, pooler=False, activation="gelu")
    check_types(config)
    return {**fields.write(FIELDS, config), **FIXED}


def _body(config: ElectraConfig) -> Sequence[Pair]:
    narrow = config.embedding_width != config.hidden_size
    return bert_body(config) + linear("embeddings/projection", "embeddings_project") * narrow


ELECTRA = Family(
    model_type="electra",
    prefix="electra.",
    read_config=_read,
    write_config=_write,
    body=_body,
    heads={
        "masked_lm": lambda _: masked_lm(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head.bias",
        ),
        "replaced_tokens": lambda _: [
            *linear("replaced_tokens/transform", "discriminator_predictions.dense"),
            *linear("replaced_tokens/output", "discriminator_predictions.dense_prediction"),
        ],
        "row": lambda _: [
            *linear("transform", "classifier.dense"),
            *linear("output", "classifier.out_proj"),
        ],
        "token": lambda _: linear("output", "classifier"),
        "span": lambda _: linear("output", "qa_outputs"),
    },
    architectures={
        "ElectraForPreTraining": Architecture(("replaced_tokens",)),
        "ElectraForMaskedLM": Architecture(("masked_lm",)),
        "ElectraForSequenceClassification": Architecture(("row",)),
        "ElectraForTokenClassification": Architecture(("token",)),
        "ElectraForQuestionAnswering": Architecture(("span",)),
        "ElectraModel": Architecture(prefix=""),
    },
    repeated={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    buffers=("**embeddings.position_ids", "**embeddings.token_type_ids"),
)
