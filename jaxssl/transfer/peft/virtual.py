"""Prompts and prefixes in PEFT's files: one table, `prompt_embeddings`.

A prompt's is [N, width]; PEFT puts it before the texts as `Prompt` does. A prefix's is
[N, 2 layers * width], of each layer the keys and then the values, and PEFT puts it into a cache.
So the text's positions begin behind it, and this is what that means:

- Rotary positions: queries are turned by N more than here, and a prefix's keys are not turned. A
  key that is turned by N meets them as the plain one does here, so keys are turned on the way.
- Learned positions are moved by N, as `Prefix.takes_positions` does.
- Relative positions (T5): keys of a prefix have distances there, and none here. No keys would do
  the same.

In encoder-decoders a prefix is in the decoder's self-attention alone. PEFT puts its table there
twice, one behind the other, and layer l reads the slots 4 l and 4 l + 1 of both: a table for twice
as many layers has room for all.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.models.config import AttentionConfig
from jaxssl.models.encoder_decoder import DECODER
from jaxssl.models.model import ModelConfig
from jaxssl.ops.rotary import Rotary, rotate, rotations_of
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.prompt import Prompt

TABLE = "prompt_embeddings"
LEAD = "base_model."
"""What stands before the names of heads beside it."""
PROMPTS = ("PROMPT_TUNING", "P_TUNING")
PREFIXES = ("PREFIX_TUNING",)
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "bart", "mbart")
CACHED = ("bert", "roberta", "electra", *DECODERS)
"""Families whose classes of `transformers` take the cache that PEFT gives a prefix in."""

Modules = Mapping[str, Mapping[str, np.ndarray]]


def written(
    method: Prompt | Prefix, modules: Modules, config: ModelConfig, heads: Iterable[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The table, and what `adapter_config.json` says of it.

    Args:
      modules: {path of a module of ours: its arrays}, of a stack all layers.
      heads: kinds of the heads that the class has.

    Raises:
      UserError: PEFT would compute something else.
    """
    where = f"peft, {method.name}"
    check_model(method.name, config, heads, where)
    ((_, arrays),) = modules.items() if len(modules) == 1 else [("", {})]
    if isinstance(method, Prompt):
        scale = np.float32(config.body().embedding_scale)
        table = np.asarray(arrays["prompt"], np.float32) * scale
        return table, {
            "peft_type": PROMPTS[0],
            "prompt_tuning_init": "RANDOM",
            "token_dim": config.embedding_width,
            "num_transformer_submodules": 1,
            **_sizes(config, method.length, config.stacks[0].depth),
        }
    _check_places(method, config, where)
    attention, depth = _attention(config)
    keys = np.asarray(arrays["key"], np.float32)
    keys = _turned(keys, attention, method.length)
    pairs = np.stack([keys, np.asarray(arrays["value"], np.float32)], axis=1)
    if config.encoder_decoder:
        pairs = np.stack([pairs, np.zeros_like(pairs)], axis=1)
    table = np.moveaxis(pairs.reshape(-1, *pairs.shape[-3:]), 1, 0)
    table = table.reshape(method.length, -1)
    return table, {
        "peft_type": PREFIXES[0],
        "prefix_projection": False,
        "token_dim": attention.num_kv_heads * attention.head_dim,
        "num_transformer_submodules": 1 + config.encoder_decoder,
        **_sizes(config, method.length, depth * (1 + config.encoder_decoder)),
        "num_attention_heads": attention.num_kv_heads,
    }


def read(
    path: Path, given: Mapping[str, Any], table: np.ndarray, config: ModelConfig
) -> tuple[Method, Modules]:
    """The method with its settings, and its arrays by module.

    Args:
      path: of the file, for messages.
      given: `adapter_config.json`.
      table: of the file.

    Raises:
      UserError: a table of another model.
    """
    length = int(given.get("num_virtual_tokens") or 0)
    if given["peft_type"] in PROMPTS:
        width = config.embedding_width
        times = int(given.get("num_transformer_submodules") or 1)
        if not length or table.shape != (length * times, width):
            raise _not_of_shape(path, f"[{length or 'tokens'} * {times}, {width}]", table)
        scale = np.asarray(config.body().embedding_scale, table.dtype)
        return Prompt(length=length), {"embeddings": {"prompt": table[:length] / scale}}
    attention, depth = _attention(config)
    heads, size = attention.num_kv_heads, attention.head_dim
    width = 2 * heads * size
    layers = table.shape[1] // width if table.ndim == 2 else 0
    fits = layers >= depth if config.encoder_decoder else layers == depth
    if not length or table.shape != (length, layers * width) or not fits:
        raise _not_of_shape(path, f"[{length or 'tokens'}, {depth} * {width}]", table)
    slots = np.moveaxis(table.reshape(length, 2 * layers, heads, size), 1, 0)
    numbers = np.arange(depth) * (4 if config.encoder_decoder else 2)
    keys, values = (slots[(numbers + part) % (2 * layers)] for part in (0, 1))
    keys = _turned(keys, attention, -length)
    stack = DECODER if config.encoder_decoder else config.stacks[0].name
    method = Prefix(length=length, takes_positions=bool(config.body().position_rows))
    if config.encoder_decoder:
        method = dataclasses.replace(method, where=(DECODER,))
    return method, {f"{stack}/layers/attention": {"key": keys, "value": values}}


def check_model(name: str, config: ModelConfig, heads: Iterable[str], where: Any) -> None:
    """Refuses a model in which PEFT does something else than is done here.

    Args:
      name: `prompt` or `prefix`.
      heads: kinds of the heads that the class of `transformers` has.

    Raises:
      UserError: says what PEFT does.
    """
    reason = _prompt_reason(config, {*heads}) if name == "prompt" else _prefix_reason(config)
    tasks = {"row", "token", "span"} & {*heads}
    if config.encoder_decoder and tasks:
        reason = "PEFT has no such adapter beside a task's head of an encoder-decoder"
    windows = [layer.pattern.window for layer in _attention(config)[0].layers]
    is_narrow = any(x is not None and x + 1 < config.max_positions for x in windows)
    if reason is None and is_narrow and (name == "prefix" or config.causal):
        reason = "attention is in windows, which hide the adapter from later tokens in PEFT"
    if reason is not None:
        raise UserError(
            "PEFT does something else with this adapter than is done here",
            where=where,
            expected="an adapter and a model that both compute alike: see docs/adapters.md",
            got=f"{name} of {config.name}: {reason}",
            fix="use it where it was trained, or train lora, which means the same in both",
        )


def _prompt_reason(config: ModelConfig, heads: set[str]) -> str | None:
    if "row" in heads and not config.causal:
        return "PEFT's classifiers take a virtual token for the whole text"
    return None


def _prefix_reason(config: ModelConfig) -> str | None:
    if _attention(config)[0].relative is not None:
        return "PEFT gives keys of a prefix relative positions"
    if config.name not in CACHED:
        return "transformers' class takes no keys and values of a prefix"
    return None


def _check_places(method: Prefix, config: ModelConfig, where: str) -> None:
    """Refuses a prefix that is elsewhere, or whose text is at other positions, than PEFT's."""
    wanted = [DECODER] if config.encoder_decoder else [config.stacks[0].name]
    places = [place for place in method.where if config.encoder_decoder or place in wanted]
    if places != wanted:
        raise UserError(
            "PEFT has no prefix in this attention",
            where=f"{where}.where",
            expected=f"[{', '.join(wanted)}]",
            got=list(method.where),
            fix=f"train with peft.where=[{', '.join(wanted)}]",
        )
    if config.body().position_rows and not method.takes_positions:
        raise UserError(
            "in PEFT a prefix takes the first learned positions of the model",
            where=f"{where}.takes_positions",
            expected="true",
            got="false",
            fix="train with peft.takes_positions=true",
        )


def _sizes(config: ModelConfig, length: int, layers: int) -> dict[str, Any]:
    return {
        "num_virtual_tokens": length,
        "num_layers": layers,
        "num_attention_heads": config.num_heads,
    }


def _attention(config: ModelConfig) -> tuple[AttentionConfig, int]:
    """Of the stack that a prefix of PEFT's is in, and how many layers it has."""
    stack = config.stacks[-1]
    return config.block(Precision(), stack.name).attention, stack.depth


def _turned(keys: np.ndarray, attention: AttentionConfig, places: int) -> np.ndarray:
    """Keys [layers, N, K, D], turned by so many places where positions are rotary."""
    rotaries = [layer.rotary for layer in attention.layers]
    made = [
        x if rotary is None else _turned_one(x, rotary, attention.head_dim, places)
        for x, rotary in zip(keys, rotaries, strict=True)
    ]
    return np.stack(made)


def _turned_one(keys: np.ndarray, rotary: Rotary, size: int, places: int) -> np.ndarray:
    frequencies, _ = rotary.frequencies(size)
    angles = jnp.full((1, len(keys)), places, jnp.int32)
    turned = rotate(jnp.asarray(keys)[None], *rotations_of(angles, frequencies, 1.0))
    return np.asarray(turned[0])


def _not_of_shape(path: Path, expected: str, table: np.ndarray) -> UserError:
    return UserError(
        "an adapter's table does not fit the model",
        where=f"{path}, {TABLE}",
        expected=expected,
        got=list(table.shape),
        fix="give the model that the adapter was trained on: --base",
    )
