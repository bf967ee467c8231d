"""BART and mBART."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear, norm, table
from jaxssl.models.bart import BartConfig, MBartConfig

FIELDS = (
    Field("vocab_size", "vocab_size", 50265),
    Field("hidden_size", "d_model", 1024, alias="hidden_size"),
    Field("num_layers", "encoder_layers", 12, alias="num_hidden_layers"),
    Field("decoder_layers", "decoder_layers", 12),
    Field("num_heads", "encoder_attention_heads", 16, alias="num_attention_heads"),
    Field("intermediate_size", "encoder_ffn_dim", 4096),
    Field("max_positions", "max_position_embeddings", 1024),
    Field("activation", "activation_function", "gelu", fields.ACTIVATION),
    Field("dropout", "dropout", 0.1),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("feed_forward_dropout", "activation_dropout", 0.0),
    Field("initializer_range", "init_std", 0.02),
    Field("scaled_embeddings", "scale_embedding", False),
)
ALIKE = {
    "decoder_attention_heads": ("encoder_attention_heads", 16),
    "decoder_ffn_dim": ("encoder_ffn_dim", 4096),
}
"""What both stacks must have alike, with the class's default."""
FIXED = {
    "is_encoder_decoder": True,
    "tie_word_embeddings": True,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}
OFFSET = 2
"""Rows of their tables before the first position."""


def _read(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    del names
    fields.expect(given, FIXED)
    for name, (other, default) in ALIKE.items():
        fields.agreed({n: given.get(n, default) for n in (name, other)})
    # mBART's generation names the language that a decoder starts with; its end is what is built in.
    start = given.get("decoder_start_token_id", 2)
    return {**fields.read(FIELDS, given), "decoder_start_token_id": 2 if start is None else start}


def _write(config: BartConfig) -> dict[str, Any]:
    fields.check_written(config, part="both", position_offset=OFFSET, norm_epsilon=1e-5)
    written = {
        **fields.write(FIELDS, config),
        "decoder_layers": config.decoder_depth,
        "decoder_start_token_id": config.decoder_start_token_id,
    }
    return {**written, **FIXED, **{name: written[other] for name, (other, _) in ALIKE.items()}}


def _stack(name: str) -> list[Pair]:
    ours, theirs = f"{name}/layers", f"{name}.layers.{{layer}}"
    sublayers = {"attention": ("self_attn", "self_attn_layer_norm")}
    if name == "decoder":
        sublayers["cross_attention"] = ("encoder_attn", "encoder_attn_layer_norm")
    pairs = []
    for mine, (yours, normal) in sublayers.items():
        for part, letter in (("query", "q"), ("key", "k"), ("value", "v")):
            pairs += linear(f"{ours}/{mine}/{part}", f"{theirs}.{yours}.{letter}_proj")
        pairs += linear(f"{ours}/{mine}/output", f"{theirs}.{yours}.out_proj", num_in=2)
        pairs += norm(f"{ours}/{mine}_norm", f"{theirs}.{normal}")
    for part, there in {"up": "fc1", "down": "fc2"}.items():
        pairs += linear(f"{ours}/feed_forward/{part}", f"{theirs}.{there}")
    return pairs + norm(f"{ours}/feed_forward_norm", f"{theirs}.final_layer_norm")


def _body(config: BartConfig) -> Sequence[Pair]:
    pairs = [
        *table("embeddings/tokens", "shared"),
        *table("embeddings/positions", "encoder.embed_positions"),
        *norm("embeddings/norm", "encoder.layernorm_embedding"),
        *_stack("encoder"),
        *table("decoder_embeddings/positions", "decoder.embed_positions"),
        *norm("decoder_embeddings/norm", "decoder.layernorm_embedding"),
        *_stack("decoder"),
    ]
    if config.body().final_norm:
        pairs += norm("norm", "encoder.layer_norm") + norm("decoder_norm", "decoder.layer_norm")
    return pairs


def _family(model_type: str, config: type[BartConfig], prefix: str) -> Family:
    return Family(
        model_type=model_type,
        prefix="model.",
        read_config=lambda given, names: config(**_read(given, names)),
        write_config=_write,
        body=_body,
        heads={"causal_lm": lambda _: ()},
        architectures={
            f"{prefix}ForConditionalGeneration": Architecture(("causal_lm",)),
            f"{prefix}Model": Architecture(prefix=""),
        },
        repeated={
            "encoder.embed_tokens.weight": "model.shared.weight",
            "decoder.embed_tokens.weight": "model.shared.weight",
            "lm_head.weight": "model.shared.weight",
        },
        zeros=("final_logits_bias",),
    )


BART = _family("bart", BartConfig, "Bart")
MBART = _family("mbart", MBartConfig, "MBart")
