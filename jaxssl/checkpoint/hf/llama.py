"""Llama, Mistral, Qwen2 and Qwen3."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear, norm, table
from jaxssl.core.errors import UserError
from jaxssl.models.llama import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from jaxssl.ops.rotary import Linear, Llama3, Scaling, Yarn

FIELDS = (
    Field("vocab_size", "vocab_size", 32000),
    Field("hidden_size", "hidden_size", 4096),
    Field("num_layers", "num_hidden_layers", 32),
    Field("num_heads", "num_attention_heads", 32),
    Field("intermediate_size", "intermediate_size", 11008),
    Field("max_positions", "max_position_embeddings", 2048),
    Field("activation", "hidden_act", "silu", fields.ACTIVATION),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("norm_epsilon", "rms_norm_eps", 1e-6),
    Field("initializer_range", "initializer_range", 0.02),
    Field("tied", "tie_word_embeddings", False),
)
DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"intermediate_size": 14336, "max_position_embeddings": 131072},
    "qwen2": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
    },
    "qwen3": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "head_dim": 128,
    },
}
"""What `transformers`' classes have where `config.json` leaves a field out, if not as Llama's."""
KV_HEADS = {"llama": None, "mistral": 8, "qwen2": 32, "qwen3": 32}
LLAMA3 = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_positions",
}
YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_positions",
    "attention_factor": "attention_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
}
SCALINGS: dict[str, tuple[type, Mapping[str, str]]] = {
    "linear": (Linear, {"factor": "factor"}),
    "llama3": (Llama3, LLAMA3),
    "yarn": (Yarn, YARN),
}


def _read(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all have."""
    kind = given["model_type"]
    fields.expect(given, {"is_causal": True, "partial_rotary_factor": 1.0})
    given = {**DEFAULTS[kind], **given}
    values = fields.read(FIELDS, given)
    theta, scaling = _read_rotary(given, values["max_positions"])
    heads = given.get("num_key_value_heads", KV_HEADS[kind])
    return {
        **values,
        "num_kv_heads": values["num_heads"] if heads is None else heads,
        "head_width": given.get("head_dim"),
        "rotary_theta": theta,
        "rotary_scaling": scaling,
    }


def _read_rotary(given: Mapping[str, Any], max_positions: int) -> tuple[float, Scaling | None]:
    """`rope_parameters`, or `rope_theta` and `rope_scaling` in older files; if both are there, they
    must agree."""
    stated = {name: given[name] for name in ("rope_parameters", "rope_scaling") if given.get(name)}
    thetas = {f"{name}.rope_theta": each.get("rope_theta") for name, each in stated.items()}
    theta = fields.agreed({**thetas, "rope_theta": given.get("rope_theta")})
    read = {name: _read_scaling(given, name, max_positions) for name in stated}
    if len(set(read.values())) > 1:
        fields.agreed(stated)
    scaling = next(iter(read.values()), None)
    return 10_000.0 if theta is None else theta, scaling


def _read_scaling(given: Mapping[str, Any], field: str, max_positions: int) -> Scaling | None:
    """How one of these fields scales rotary positions."""
    parameters: Mapping[str, Any] = given[field]
    kinds = {f"{field}.{name}": parameters.get(name) for name in ("rope_type", "type")}
    kind = fields.agreed(kinds) or "default"
    fields.expect(parameters, {"partial_rotary_factor": 1.0})
    if kind == "default":
        return None
    if kind not in SCALINGS:
        raise UserError(
            "this model has rotary positions that are not built here",
            where="config.json, rope_type",
            expected="default, " + ", ".join(SCALINGS),
            got=kind,
        )
    cls, names = SCALINGS[kind]
    ignored = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    unknown = parameters.keys() - names.keys() - ignored
    stated = {key for key in unknown if parameters[key] is not None}
    if stated:
        raise UserError(
            "this model has rotary positions that are not built here",
            where=f"config.json, {kind}",
            expected=", ".join(names),
            got=", ".join(sorted(stated)),
        )
    values = {
        ours: parameters[key] for key, ours in names.items() if parameters.get(key) is not None
    }
    if "original_positions" in names.values():
        name = "original_max_position_embeddings"  # some have it outside
        known = fields.agreed({f"{field}.{name}": parameters.get(name), name: given.get(name)})
        values["original_positions"] = max_positions if known is None else known
    if "factor" not in values:
        raise UserError(
            "rotary positions are scaled by nothing",
            where="config.json, rope_parameters",
            expected=f"a factor, for {kind}",
            got=dict(parameters),
        )
    return cls(**values)


def _write(config: LlamaConfig) -> dict[str, Any]:
    """The fields that all have."""
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rotary_theta}
    if config.rotary_scaling is not None:
        rotary["rope_type"] = config.rotary_scaling.name
        _, names = SCALINGS[config.rotary_scaling.name]
        stated = {key: getattr(config.rotary_scaling, ours) for key, ours in names.items()}
        rotary |= {key: value for key, value in stated.items() if value is not None}
    return {
        **fields.write(FIELDS, config),
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rope_parameters": rotary,
        # Where older readers look: they would take the defaults instead, in silence.
        "rope_theta": config.rotary_theta,
        "rope_scaling": rotary if config.rotary_scaling is not None else None,
    }


def _read_llama(given: Mapping[str, Any], names: frozenset[str]) -> LlamaConfig:
    del names
    bias = {False: "none", True: "all"}[given.get("attention_bias", False)]
    wide = given.get("mlp_bias", False)
    return LlamaConfig(**_read(given), attention_bias=bias, feed_forward_bias=wide)  # type: ignore[arg-type]


def _write_llama(config: LlamaConfig) -> dict[str, Any]:
    fields.check_written(config, window=None, qk_norm=False)
    fields.check_one_of(config, attention_bias=("none", "all"))
    return {
        **_write(config),
        "attention_bias": config.attention_bias == "all",
        "mlp_bias": config.feed_forward_bias,
    }


def _read_mistral(given: Mapping[str, Any], names: frozenset[str]) -> MistralConfig:
    del names
    fields.expect(given, {"layer_types": None})
    return MistralConfig(**_read(given), window=given.get("sliding_window", 4096))


def _write_mistral(config: MistralConfig) -> dict[str, Any]:
    fields.check_written(
        config, window_from=0, qk_norm=False, attention_bias="none", feed_forward_bias=False
    )
    return {**_write(config), "sliding_window": config.window}


def _read_window(given: Mapping[str, Any], num_layers: int) -> dict[str, Any]:
    """Qwen's window: in the upper layers, and only where it is switched on."""
    types, start = given.get("layer_types"), given.get("max_window_layers")
    if not given.get("use_sliding_window", False):
        fields.expect(given, {"layer_types": types and ["full_attention"] * num_layers})
        return {"window": None, "window_from": 0}
    if types is None:
        return _window(given, num_layers, 28 if start is None else start)
    first = types.index("sliding_attention") if "sliding_attention" in types else num_layers
    wanted = ["full_attention"] * first + ["sliding_attention"] * (num_layers - first)
    fields.expect(given, {"layer_types": wanted})
    told = None if start is None else min(start, num_layers)
    fields.agreed({"max_window_layers": told, "first sliding_attention of layer_types": first})
    return _window(given, num_layers, first)


def _window(given: Mapping[str, Any], num_layers: int, start: int) -> dict[str, Any]:
    return {"window": given.get("sliding_window", 4096), "window_from": min(start, num_layers)}


def _write_window(config: LlamaConfig) -> dict[str, Any]:
    start = config.num_layers if config.window is None else config.window_from
    kinds = ["full_attention", "sliding_attention"]
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": start,
        "layer_types": [kinds[layer >= start] for layer in range(config.num_layers)],
    }


def _read_qwen2(given: Mapping[str, Any], names: frozenset[str]) -> Qwen2Config:
    del names
    values = _read(given)
    return Qwen2Config(**values, **_read_window(given, values["num_layers"]))


def _write_qwen2(config: Qwen2Config) -> dict[str, Any]:
    fields.check_written(config, qk_norm=False, attention_bias="qkv", feed_forward_bias=False)
    if config.head_width is not None:
        fields.check_written(config, head_width=config.hidden_size // config.num_heads)
    return {**_write(config), **_write_window(config)}


def _read_qwen3(given: Mapping[str, Any], names: frozenset[str]) -> Qwen3Config:
    del names
    values = _read(given)
    bias = {False: "none", True: "all"}[given.get("attention_bias", False)]
    window = _read_window(given, values["num_layers"])
    return Qwen3Config(**values, **window, attention_bias=bias)  # type: ignore[arg-type]


def _write_qwen3(config: Qwen3Config) -> dict[str, Any]:
    fields.check_written(config, qk_norm=True, feed_forward_bias=False)
    fields.check_one_of(config, attention_bias=("none", "all"))
    return {
        **_write(config),
        **_write_window(config),
        "attention_bias": config.attention_bias == "all",
    }


def _body(config: LlamaConfig) -> Sequence[Pair]:
    ours, theirs = "decoder/layers", "layers.{layer}"
    pairs = [
        *table("embeddings/tokens", "embed_tokens"),
        *norm("norm", "norm", bias=False),
        *norm(f"{ours}/attention_norm", f"{theirs}.input_layernorm", bias=False),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.post_attention_layernorm", bias=False),
    ]
    bias = config.attention_bias != "none"
    attention = f"{ours}/attention", f"{theirs}.self_attn"
    for name, there in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        pairs += linear(f"{attention[0]}/{name}", f"{attention[1]}.{there}", bias=bias)
    wide = config.attention_bias == "all"
    pairs += linear(f"{attention[0]}/output", f"{attention[1]}.o_proj", bias=wide, num_in=2)
    if config.qk_norm:
        for name, there in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            pairs += norm(f"{attention[0]}/{name}", f"{attention[1]}.{there}", bias=False)
    for name in ("gate", "up", "down"):
        there = f"{theirs}.mlp.{name}_proj"
        pairs += linear(f"{ours}/feed_forward/{name}", there, bias=config.feed_forward_bias)
    return pairs


def _causal_lm(config: LlamaConfig) -> Sequence[Pair]:
    return () if config.tied else linear("causal_lm/output", "lm_head", bias=False)


def _family(model_type: str, name: str, read_config: Any, write_config: Any) -> Family:
    answers = "model." if name == "Mistral" else "transformer."  # as their classes have it
    return Family(
        model_type=model_type,
        prefix="model.",
        read_config=read_config,
        write_config=write_config,
        body=_body,
        heads={
            "causal_lm": _causal_lm,
            "row": lambda _: linear("output", "score", bias=False),
            "token": lambda _: linear("output", "score"),
            "span": lambda _: linear("output", "qa_outputs"),
        },
        architectures={
            f"{name}ForCausalLM": Architecture(("causal_lm",)),
            f"{name}ForSequenceClassification": Architecture(("row",)),
            f"{name}ForTokenClassification": Architecture(("token",)),
            f"{name}ForQuestionAnswering": Architecture(("span",), answers),
            f"{name}Model": Architecture(prefix=""),
        },
        repeated={"lm_head.weight": "model.embed_tokens.weight"},
        replaces_tokenizers=name == "Qwen2",
        buffers=("**layers.*.self_attn.rotary_emb.inv_freq",),
    )


LLAMA = _family("llama", "Llama", _read_llama, _write_llama)
MISTRAL = _family("mistral", "Mistral", _read_mistral, _write_mistral)
QWEN2 = _family("qwen2", "Qwen2", _read_qwen2, _write_qwen2)
QWEN3 = _family("qwen3", "Qwen3", _read_qwen3, _write_qwen3)
