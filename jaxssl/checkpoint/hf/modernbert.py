"""ModernBERT, whose files keep queries, keys and values in one tensor, and gate and value too."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear, norm, table
from jaxssl.core.errors import UserError
from jaxssl.models.modernbert import ModernBertConfig

FIELDS = (
    Field("vocab_size", "vocab_size", 50368),
    Field("hidden_size", "hidden_size", 768),
    Field("num_layers", "num_hidden_layers", 22),
    Field("num_heads", "num_attention_heads", 12),
    Field("intermediate_size", "intermediate_size", 1152),
    Field("max_positions", "max_position_embeddings", 8192),
    Field("activation", "hidden_activation", "gelu", fields.ACTIVATION),
    Field("dropout", "mlp_dropout", 0.0),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("norm_epsilon", "norm_eps", 1e-5),
    Field("initializer_range", "initializer_range", 0.02),
)
FIXED = {
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "decoder_bias": True,
    "classifier_bias": False,
    "tie_word_embeddings": True,
}
KINDS = {"full_attention": "global", "sliding_attention": "local"}


def _read(given: Mapping[str, Any], names: frozenset[str]) -> ModernBertConfig:
    del names
    fields.expect(given, FIXED)
    values = fields.read(FIELDS, given)
    activation = given.get("hidden_activation", "gelu")
    fields.expect({"classifier_activation": "gelu", **given}, {"classifier_activation": activation})
    fields.expect(given, {"rope_scaling": None, "partial_rotary_factor": 1.0})
    half = given.get("sliding_window")
    stated = {
        "local_attention": given.get("local_attention"),
        "twice sliding_window": half and 2 * half,
    }
    window = fields.agreed(stated) or 128
    if window % 2:
        raise UserError(
            "this model has something that is not built here",
            where="config.json, local_attention",
            expected="an even number",
            got=window,
        )
    return ModernBertConfig(
        **values,
        **_thetas(given),
        global_every=_global_every(given, values["num_layers"]),
        local_window=window // 2,
    )


def _thetas(given: Mapping[str, Any]) -> dict[str, Any]:
    """Of both kinds of layers: `rope_parameters` by kind, or two fields in older files."""
    found, defaults = {}, {"global": 160_000.0, "local": 10_000.0}
    for theirs, ours in KINDS.items():
        parameters = (given.get("rope_parameters") or {}).get(theirs) or {}
        fields.expect(parameters, {"rope_type": "default"})
        newer, older = f"rope_parameters.{theirs}.rope_theta", f"{ours}_rope_theta"
        stated = {newer: parameters.get("rope_theta"), older: given.get(older)}
        theta = fields.agreed(stated)
        found[f"{ours}_theta"] = defaults[ours] if theta is None else theta
    return found


def _global_every(given: Mapping[str, Any], num_layers: int) -> int:
    """Which layers are global: a number in older files, a list in newer ones."""
    types, stated = given.get("layer_types"), given.get("global_attn_every_n_layers")
    if types is None:
        return 3 if stated is None else stated
    is_global = [name == "full_attention" for name in types]
    if len(is_global) != num_layers:
        raise UserError(
            "the kinds of layers are not as many as the layers",
            where="config.json, layer_types",
            expected=num_layers,
            got=len(is_global),
        )
    every = next((i for i in range(1, num_layers) if is_global[i]), num_layers)
    if is_global != [i % every == 0 for i in range(num_layers)]:
        raise UserError(
            "this model has something that is not built here",
            where="config.json, layer_types",
            expected="full_attention in layer 0 and every so many after it",
            got=types,
        )
    if stated is not None and is_global != [i % stated == 0 for i in range(num_layers)]:
        fields.agreed({"global_attn_every_n_layers": stated, "layers from one to the next": every})
    return every


def _write(config: ModernBertConfig) -> dict[str, Any]:
    types = ["sliding_attention", "full_attention"]
    written = fields.write(FIELDS, config)
    return {
        **written,
        **FIXED,
        "classifier_activation": written["hidden_activation"],
        "global_rope_theta": config.global_theta,  # where older readers look
        "local_rope_theta": config.local_theta,
        "embedding_dropout": config.dropout,
        "local_attention": 2 * config.local_window,
        "global_attn_every_n_layers": config.global_every,
        "layer_types": [types[i % config.global_every == 0] for i in range(config.num_layers)],
        "rope_parameters": {
            theirs: {"rope_type": "default", "rope_theta": getattr(config, f"{ours}_theta")}
            for theirs, ours in KINDS.items()
        },
    }


def _body(config: ModernBertConfig) -> Sequence[Pair]:
    del config
    ours, theirs = "encoder/layers", "layers.{layer}"
    pairs = [
        *table("embeddings/tokens", "embeddings.tok_embeddings"),
        *norm("embeddings/norm", "embeddings.norm", bias=False),
        *norm("norm", "final_norm", bias=False),
        *norm(f"{ours}/attention_norm", f"{theirs}.attn_norm", bias=False, first_layer=1),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.mlp_norm", bias=False),
    ]
    for i, name in enumerate(("query", "key", "value")):
        fused = f"{theirs}.attn.Wqkv"
        pairs += linear(f"{ours}/attention/{name}", fused, bias=False, part=(i, 3))
    pairs += linear(f"{ours}/attention/output", f"{theirs}.attn.Wo", bias=False, num_in=2)
    for i, name in enumerate(("gate", "up")):
        pairs += linear(f"{ours}/feed_forward/{name}", f"{theirs}.mlp.Wi", bias=False, part=(i, 2))
    return pairs + linear(f"{ours}/feed_forward/down", f"{theirs}.mlp.Wo", bias=False)


def _task_head(_: ModernBertConfig) -> list[Pair]:
    return [
        *linear("transform", "head.dense", bias=False),
        *norm("norm", "head.norm", bias=False),
        *linear("output", "classifier"),
    ]


MODERNBERT = Family(
    model_type="modernbert",
    prefix="model.",
    read_config=_read,
    write_config=_write,
    body=_body,
    heads={
        "masked_lm": lambda _: [
            *linear("masked_lm/transform", "head.dense", bias=False),
            *norm("masked_lm/norm", "head.norm", bias=False),
            Pair("masked_lm/bias", "decoder.bias", "vector", 0),
        ],
        "row": _task_head,
        "token": _task_head,
        "span": _task_head,
    },
    architectures={
        "ModernBertForMaskedLM": Architecture(("masked_lm",)),
        "ModernBertForSequenceClassification": Architecture(("row",)),
        "ModernBertForTokenClassification": Architecture(("token",)),
        "ModernBertForQuestionAnswering": Architecture(("span",)),
        "ModernBertModel": Architecture(prefix=""),
    },
    read_as={"embedding_dropout": "mlp_dropout"},
    repeated={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
