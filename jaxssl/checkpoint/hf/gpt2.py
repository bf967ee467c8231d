"""GPT-2, whose files keep kernels as [in, out] and queries, keys and values in one."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.checkpoint.hf import fields
from jaxssl.checkpoint.hf.fields import Field
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, linear, norm, table
from jaxssl.models.gpt2 import Gpt2Config

FIELDS = (
    Field("vocab_size", "vocab_size", 50257),
    Field("hidden_size", "n_embd", 768, alias="hidden_size"),
    Field("num_layers", "n_layer", 12, alias="num_hidden_layers"),
    Field("num_heads", "n_head", 12, alias="num_attention_heads"),
    Field("max_positions", "n_positions", 1024, alias="max_position_embeddings"),
    Field("activation", "activation_function", "gelu_new", fields.ACTIVATION),
    Field("dropout", "resid_pdrop", 0.1),
    Field("attention_dropout", "attn_pdrop", 0.1),
    Field("norm_epsilon", "layer_norm_epsilon", 1e-5),
    Field("initializer_range", "initializer_range", 0.02),
)
FIXED = {
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}


def _read(given: Mapping[str, Any], names: frozenset[str]) -> Gpt2Config:
    del names
    fields.expect(given, FIXED)
    values = fields.read(FIELDS, given)
    fields.agreed({"n_positions": values["max_positions"], "n_ctx": given.get("n_ctx")})
    width = given.get("n_inner") or 4 * values["hidden_size"]
    return Gpt2Config(**values, intermediate_size=width)


def _write(config: Gpt2Config) -> dict[str, Any]:
    return {
        **fields.write(FIELDS, config),
        **FIXED,
        "n_inner": config.intermediate_size,
        "embd_pdrop": config.dropout,
    }


def _body(config: Gpt2Config) -> Sequence[Pair]:
    del config
    ours, theirs = "decoder/layers", "h.{layer}"
    pairs = [
        *table("embeddings/tokens", "wte"),
        *table("embeddings/positions", "wpe"),
        *norm("norm", "ln_f"),
        *norm(f"{ours}/attention_norm", f"{theirs}.ln_1"),
        *norm(f"{ours}/feed_forward_norm", f"{theirs}.ln_2"),
    ]
    for i, name in enumerate(("query", "key", "value")):
        fused = f"{theirs}.attn.c_attn"
        pairs += linear(f"{ours}/attention/{name}", fused, part=(i, 3), kind="conv1d")
    projected = {
        "attention/output": ("attn.c_proj", 2),
        "feed_forward/up": ("mlp.c_fc", 1),
        "feed_forward/down": ("mlp.c_proj", 1),
    }
    for name, (there, num_in) in projected.items():
        pairs += linear(f"{ours}/{name}", f"{theirs}.{there}", num_in=num_in, kind="conv1d")
    return pairs


GPT2 = Family(
    model_type="gpt2",
    prefix="transformer.",
    read_config=_read,
    write_config=_write,
    body=_body,
    heads={
        "causal_lm": lambda _: (),
        "row": lambda _: linear("output", "score", bias=False),
        "token": lambda _: linear("output", "classifier"),
        "span": lambda _: linear("output", "qa_outputs"),
    },
    architectures={
        "GPT2LMHeadModel": Architecture(("causal_lm",)),
        "GPT2ForSequenceClassification": Architecture(("row",)),
        "GPT2ForTokenClassification": Architecture(("token",)),
        "GPT2ForQuestionAnswering": Architecture(("span",)),
        "GPT2Model": Architecture(prefix=""),
    },
    repeated={"lm_head.weight": "transformer.wte.weight"},
    read_as={"embd_pdrop": "resid_pdrop"},
    buffers=("**h.*.attn.bias", "**h.*.attn.masked_bias"),
)
