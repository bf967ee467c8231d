"""BERT, RoBERTa and DistilBERT."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear, norm, table
from jaxssl.models.bert import BertConfig, DistilBertConfig, RobertaConfig

COMMON = (
    Field("vocab_size", "vocab_size", 30522),
    Field("hidden_size", "hidden_size", 768),
    Field("num_layers", "num_hidden_layers", 12),
    Field("num_heads", "num_attention_heads", 12),
    Field("intermediate_size", "intermediate_size", 3072),
    Field("type_vocab_size", "type_vocab_size", 2),
    Field("activation", "hidden_act", "gelu", fields.ACTIVATION),
    Field("dropout", "hidden_dropout_prob", 0.1),
    Field("attention_dropout", "attention_probs_dropout_prob", 0.1),
    Field("norm_epsilon", "layer_norm_eps", 1e-12),
    Field("initializer_range", "initializer_range", 0.02),
)
DISTILBERT = (
    Field("vocab_size", "vocab_size", 30522),
    Field("hidden_size", "dim", 768, alias="hidden_size"),
    Field("num_layers", "n_layers", 6, alias="num_hidden_layers"),
    Field("num_heads", "n_heads", 12, alias="num_attention_heads"),
    Field("intermediate_size", "hidden_dim", 3072),
    Field("max_positions", "max_position_embeddings", 512),
    Field("activation", "activation", "gelu", fields.ACTIVATION),
    Field("dropout", "dropout", 0.1),
    Field("attention_dropout", "attention_dropout", 0.1),
    Field("initializer_range", "initializer_range", 0.02),
)
ABSOLUTE = {"position_embedding_type": "absolute", "is_decoder": False}
TIED = {"tie_word_embeddings": True}


def _layers(names: Mapping[str, str]) -> list[Pair]:
    """The stack, whose sublayers `names` calls by their names on the other side."""
    inside = {ours: f"{names['']}.{{layer}}.{theirs}" for ours, theirs in names.items() if ours}
    ours = "encoder/layers"
    pairs = []
    for name in ("query", "key", "value"):
        pairs += linear(f"{ours}/attention/{name}", inside[name])
    pairs += linear(f"{ours}/attention/output", inside["output"], num_in=2)
    pairs += norm(f"{ours}/attention_norm", inside["attention_norm"])
    pairs += linear(f"{ours}/feed_forward/up", inside["up"])
    pairs += linear(f"{ours}/feed_forward/down", inside["down"])
    return pairs + norm(f"{ours}/feed_forward_norm", inside["feed_forward_norm"])


def bert_body(config: BertConfig) -> list[Pair]:
    """The body as BERT's file names it, with a pooler and token types where it has them."""
    pairs = [
        *table("embeddings/tokens", "embeddings.word_embeddings"),
        *table("embeddings/positions", "embeddings.position_embeddings"),
        *norm("embeddings/norm", "embeddings.LayerNorm"),
        *_layers(
            {
                "": "encoder.layer",
                "query": "attention.self.query",
                "key": "attention.self.key",
                "value": "attention.self.value",
                "output": "attention.output.dense",
                "attention_norm": "attention.output.LayerNorm",
                "up": "intermediate.dense",
                "down": "output.dense",
                "feed_forward_norm": "output.LayerNorm",
            }
        ),
    ]
    if config.type_vocab_size:
        pairs += table("embeddings/token_types", "embeddings.token_type_embeddings")
    return pairs + linear("pooler", "pooler.dense") * config.pooler


def _distilbert_body(config: BertConfig) -> Sequence[Pair]:
    return [
        *table("embeddings/tokens", "embeddings.word_embeddings"),
        *table("embeddings/positions", "embeddings.position_embeddings"),
        *norm("embeddings/norm", "embeddings.LayerNorm"),
        *_layers(
            {
                "": "transformer.layer",
                "query": "attention.q_lin",
                "key": "attention.k_lin",
                "value": "attention.v_lin",
                "output": "attention.out_lin",
                "attention_norm": "sa_layer_norm",
                "up": "ffn.lin1",
                "down": "ffn.lin2",
                "feed_forward_norm": "output_layer_norm",
            }
        ),
    ]


def masked_lm(transform: str, normal: str, bias: str) -> list[Pair]:
    """The masked language model's head, by the names of its parts on the other side."""
    return [
        *linear("masked_lm/transform", transform),
        *norm("masked_lm/norm", normal),
        Pair("masked_lm/bias", bias, "vector", 0),
    ]


def _read_bert(given: Mapping[str, Any], names: frozenset[str]) -> BertConfig:
    fields.expect(given, ABSOLUTE)
    fields.expect(given, TIED)
    values = fields.read(COMMON, given)
    positions = given.get("max_position_embeddings", 512)
    return BertConfig(**values, max_positions=positions, pooler="pooler.dense.weight" in names)


def _write_bert(config: BertConfig) -> dict[str, Any]:
    fields.check_written(config, position_offset=0)
    check_types(config)
    return {
        **fields.write(COMMON, config),
        **ABSOLUTE,
        **TIED,
        "max_position_embeddings": config.max_positions,
    }


def _read_roberta(given: Mapping[str, Any], names: frozenset[str]) -> RobertaConfig:
    fields.expect(given, ABSOLUTE)
    fields.expect(given, TIED)
    offset = given.get("pad_token_id", 1) + 1
    positions = given.get("max_position_embeddings", 512) - offset
    values = fields.read(COMMON, given)
    return RobertaConfig(
        **values,
        max_positions=positions,
        position_offset=offset,
        pooler="pooler.dense.weight" in names,
    )


def check_types(config: BertConfig) -> None:
    """Refuses to export a body without token types: the class has a table of them."""
    if not config.type_vocab_size:
        fields.check_written(config, type_vocab_size=1)


def _write_roberta(config: RobertaConfig) -> dict[str, Any]:
    check_types(config)
    return {
        **fields.write(COMMON, config),
        **ABSOLUTE,
        **TIED,
        "max_position_embeddings": config.max_positions + config.position_offset,
        "pad_token_id": config.position_offset - 1,
    }


def _read_distilbert(given: Mapping[str, Any], names: frozenset[str]) -> DistilBertConfig:
    del names
    fields.expect(given, TIED)
    return DistilBertConfig(**fields.read(DISTILBERT, given))


def _write_distilbert(config: DistilBertConfig) -> dict[str, Any]:
    fields.check_written(
        config, norm_epsilon=1e-12, position_offset=0, type_vocab_size=0, pooler=False
    )
    return {**fields.write(DISTILBERT, config), **TIED, "sinusoidal_pos_embds": False}


BERT = Family(
    model_type="bert",
    prefix="bert.",
    read_config=_read_bert,
    write_config=_write_bert,
    body=bert_body,
    heads={
        "masked_lm": lambda _: masked_lm(
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.bias",
        ),
        "next_sentence": lambda _: linear("next_sentence/output", "cls.seq_relationship"),
        "row": lambda _: linear("output", "classifier"),
        "token": lambda _: linear("output", "classifier"),
        "span": lambda _: linear("output", "qa_outputs"),
    },
    pooled=("next_sentence", "row"),
    architectures={
        "BertForPreTraining": Architecture(("masked_lm", "next_sentence")),
        "BertForMaskedLM": Architecture(("masked_lm",)),
        "BertForNextSentencePrediction": Architecture(("next_sentence",)),
        "BertForSequenceClassification": Architecture(("row",)),
        "BertForTokenClassification": Architecture(("token",)),
        "BertForQuestionAnswering": Architecture(("span",)),
        "BertModel": Architecture(prefix=""),
    },
    repeated={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    buffers=("**embeddings.position_ids", "**embeddings.token_type_ids"),
)

ROBERTA = Family(
    model_type="roberta",
    prefix="roberta.",
    read_config=_read_roberta,
    write_config=_write_roberta,
    body=bert_body,
    heads={
        "masked_lm": lambda _: masked_lm("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
        "row": lambda _: [
            *linear("transform", "classifier.dense"),
            *linear("output", "classifier.out_proj"),
        ],
        "token": lambda _: linear("output", "classifier"),
        "span": lambda _: linear("output", "qa_outputs"),
    },
    architectures={
        "RobertaForMaskedLM": Architecture(("masked_lm",)),
        "RobertaForSequenceClassification": Architecture(("row",)),
        "RobertaForTokenClassification": Architecture(("token",)),
        "RobertaForQuestionAnswering": Architecture(("span",)),
        "RobertaModel": Architecture(prefix=""),
    },
    repeated={
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    buffers=("**embeddings.position_ids", "**embeddings.token_type_ids"),
)

DISTILBERT_FAMILY = Family(
    model_type="distilbert",
    prefix="distilbert.",
    read_config=_read_distilbert,
    write_config=_write_distilbert,
    body=_distilbert_body,
    heads={
        "masked_lm": lambda _: masked_lm(
            "vocab_transform", "vocab_layer_norm", "vocab_projector.bias"
        ),
        "row": lambda _: [
            *linear("transform", "pre_classifier"),
            *linear("output", "classifier"),
        ],
        "token": lambda _: linear("output", "classifier"),
        "span": lambda _: linear("output", "qa_outputs"),
    },
    architectures={
        "DistilBertForMaskedLM": Architecture(("masked_lm",)),
        "DistilBertForSequenceClassification": Architecture(("row",)),
        "DistilBertForTokenClassification": Architecture(("token",)),
        "DistilBertForQuestionAnswering": Architecture(("span",)),
        "DistilBertModel": Architecture(prefix=""),
    },
    repeated={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
)
