"""T5, its version 1.1 and FLAN, and mT5.

Whether the head is tied, and hidden states scaled before it, is not told by one field.
`transformers` 5 ties always, but for a file that has a head of its own; whether it scales is
`scale_decoder_outputs`, or, where that is not stated, `tie_word_embeddings` (as older versions
wrote it: true for 1.0, false for 1.1). mT5 never scales.

Whether a file is an encoder alone is told by its class (`T5EncoderModel`, as Sentence-T5's), and
where it names none by its tensors, whatever `is_encoder_decoder` says.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear, norm, table
from jaxssl.core.errors import UserError
from jaxssl.models.encoder_decoder import DECODER, ENCODER
from jaxssl.models.t5 import MT5Config, T5Config

FIELDS = (
    Field("vocab_size", "vocab_size", 32128),
    Field("hidden_size", "d_model", 512, alias="hidden_size"),
    Field("num_layers", "num_layers", 6, alias="num_hidden_layers"),
    Field("num_heads", "num_heads", 8, alias="num_attention_heads"),
    Field("head_width", "d_kv", 64),
    Field("intermediate_size", "d_ff", 2048),
    Field("relative_buckets", "relative_attention_num_buckets", 32),
    Field("relative_max_distance", "relative_attention_max_distance", 128),
    Field("dropout", "dropout_rate", 0.1),
    Field("norm_epsilon", "layer_norm_epsilon", 1e-6),
    Field("initializer_range", "initializer_factor", 1.0),
    Field("decoder_start_token_id", "decoder_start_token_id", 0),
)
DEFAULTS = {
    "t5": {"feed_forward_proj": "relu"},
    "mt5": {
        "vocab_size": 250112,
        "num_layers": 8,
        "num_heads": 6,
        "d_ff": 1024,
        "feed_forward_proj": "gated-gelu",
    },
}
"""What the classes have where `config.json` leaves a field out, if not as `FIELDS`."""
GATED = {"gelu_tanh": "gated-gelu", "silu": "gated-silu", "relu": "gated-relu"}
"""How a gated feed-forward layer is written."""
HEAD = "lm_head.weight"
ENCODERS = ("EncoderModel", "ForTokenClassification")
"""The ends of the names of classes that have an encoder alone."""


def _read(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """The fields that all have."""
    named = given.get("architectures") or []
    is_whole = (
        not str(named[0]).endswith(ENCODERS)
        if named
        else any(name.startswith(f"{DECODER}.") for name in names)
    )
    if is_whole:
        fields.expect(given, {"is_encoder_decoder": True})
    given = {**DEFAULTS[given["model_type"]], **given}
    values = fields.read(FIELDS, given)
    gated, activation = _read_feed_forward(given["feed_forward_proj"])
    return {
        **values,
        "part": "both" if is_whole else ENCODER,
        "decoder_layers": given.get("num_decoder_layers"),
        "attention_dropout": values["dropout"],
        "feed_forward_dropout": values["dropout"],
        "max_positions": given.get("n_positions") or 512,
        "gated": gated,
        "activation": activation,
        **_read_head(given, names),
    }


def _read_feed_forward(stated: str) -> tuple[bool, str]:
    *gate, activation = stated.split("-")
    if gate not in ([], ["gated"]) or activation not in fields.ACTIVATION:
        raise UserError(
            "this model has something that is not built here",
            where="config.json, feed_forward_proj",
            expected="relu, gated-gelu, gated-silu, ...",
            got=stated,
        )
    approximate = stated == "gated-gelu"  # which `transformers` takes for gelu_new
    return bool(gate), "gelu_tanh" if approximate else fields.ACTIVATION[activation]


def _read_head(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    scaled = given.get("scale_decoder_outputs", given.get("tie_word_embeddings") is not False)
    if given["model_type"] == "mt5":
        scaled = False
    own = HEAD in names and not scaled
    return {"tied": not own, "scaled_head": bool(scaled)}


def _write(config: T5Config) -> dict[str, Any]:
    fields.check_one_of(config, part=("both", ENCODER))
    fields.check_written(config, attention_dropout=config.dropout)
    fields.check_written(config, feed_forward_dropout=config.dropout)
    is_mt5 = isinstance(config, MT5Config)
    if is_mt5 or not config.tied:
        fields.check_written(config, scaled_head=False)
    activation = fields.write((Field("activation", "a", "", fields.ACTIVATION),), config)["a"]
    if config.gated:
        activation = GATED.get(config.activation) or f"gated-{activation}"
    told = {} if is_mt5 else {"scale_decoder_outputs": config.scaled_head}
    return {
        **fields.write(FIELDS, config),
        "num_decoder_layers": config.decoder_depth,
        "n_positions": config.max_positions,
        "feed_forward_proj": activation,
        "is_encoder_decoder": config.encoder_decoder,
        "tie_word_embeddings": config.tied,
        **told,
    }


def _stack(name: str, gated: bool) -> list[Pair]:
    ours, theirs = f"{name}/layers", f"{name}.block.{{layer}}.layer"
    sublayers = [("attention", "SelfAttention")]
    sublayers += [("cross_attention", "EncDecAttention")] * (name == DECODER)
    pairs = []
    for number, (mine, yours) in enumerate(sublayers):
        for part in ("query", "key", "value"):
            there = f"{theirs}.{number}.{yours}.{part[0]}"
            pairs += linear(f"{ours}/{mine}/{part}", there, bias=False)
        there = f"{theirs}.{number}.{yours}.o"
        pairs += linear(f"{ours}/{mine}/output", there, bias=False, num_in=2)
        pairs += norm(f"{ours}/{mine}_norm", f"{theirs}.{number}.layer_norm", bias=False)
    last = f"{theirs}.{len(sublayers)}"
    wide = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    for part, there in {**wide, "down": "wo"}.items():
        pairs += linear(f"{ours}/feed_forward/{part}", f"{last}.DenseReluDense.{there}", bias=False)
    pairs += norm(f"{ours}/feed_forward_norm", f"{last}.layer_norm", bias=False)
    first = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return pairs + table(f"{name}/relative", first)


def _body(config: T5Config) -> Sequence[Pair]:
    reads = [
        *table("embeddings/tokens", "shared"),
        *_stack(ENCODER, config.gated),
        *norm("norm", "encoder.final_layer_norm", bias=False),
    ]
    writes = [
        *_stack(DECODER, config.gated),
        *norm("decoder_norm", "decoder.final_layer_norm", bias=False),
    ]
    return [*reads, *writes] if config.encoder_decoder else reads


def _family(model_type: str, config: type[T5Config], prefix: str) -> Family:
    return Family(
        model_type=model_type,
        prefix="",
        read_config=lambda given, names: config(**_read(given, names)),
        write_config=_write,
        body=_body,
        heads={
            "causal_lm": lambda config: (
                [] if config.tied else linear("causal_lm/output", "lm_head", bias=False)
            ),
            "token": lambda _: linear("output", "classifier"),
        },
        architectures={
            f"{prefix}ForConditionalGeneration": Architecture(("causal_lm",)),
            f"{prefix}Model": Architecture(),
            f"{prefix}EncoderModel": Architecture(part=ENCODER),
            f"{prefix}ForTokenClassification": Architecture(("token",), "transformer.", ENCODER),
        },
        repeated={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            HEAD: "shared.weight",
        },
        buffers=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    )


T5 = _family("t5", T5Config, "T5")
MT5 = _family("mt5", MT5Config, "MT5")
