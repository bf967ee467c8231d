"""Adapters in the files of the library PEFT, which `PeftModel.from_pretrained` reads.

`adapter_model.safetensors` and `adapter_config.json`. Names of tensors are those of the modules in
`transformers`' class, with `base_model.model.` before them. Heads that were trained travel along,
as PEFT's `modules_to_save`. Prompts and prefixes are one table (`virtual`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.checkpoint.hf.families import family_of
from jaxssl.checkpoint.hf.mapping import Pair, layers_of
from jaxssl.checkpoint.hf.safetensors import NAMES, write_file
from jaxssl.checkpoint.hf.writing import grouped_pairs
from jaxssl.core.errors import UserError
from jaxssl.transfer.peft import virtual
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.prompt import Prompt
from jaxssl.transfer.peft.rows import OUTPUT, Rows, written_alone
from jaxssl.transfer.peft.rows import written as written_rows
from jaxssl.transfer.peft.tokens import Tokens

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LEAD = "base_model.model."
TASKS = {
    "row": "SEQ_CLS",
    "token": "TOKEN_CLS",
    "span": "QUESTION_ANS",
    "causal_lm": "CAUSAL_LM",
}
"""What PEFT calls what a head is for."""
WRITES, FEATURES = "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"
"""What it calls an encoder-decoder's, and a model that is for none of these."""


def write_adapter(
    out: Path,
    method: Method,
    modules: Mapping[str, Mapping[str, np.ndarray]],
    trained: Mapping[str, np.ndarray],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    config: Any,
    heads: Mapping[str, str],
    architecture: str,
    base: str | None,
    biases: Mapping[str, np.ndarray] = {},
    rows: Mapping[str, Rows] = {},
) -> None:
    """Writes one adapter to an existing directory.

    Args:
      modules: {path of a module of ours: its arrays}, of a stack all layers.
      trained: parameters of heads and the pooler that were trained, by name.
      shapes: of the model's own parameters, by canonical name.
      config: the model's.
      heads: {a head's name there: its name here}.
      architecture: the class of `transformers`.
      base: where PEFT finds the model; None says nothing of it.
      biases: all of the model's own, by canonical name.
      rows: of tables, that the model that it is for has not so, by the table's name.

    Raises:
      UserError: PEFT has no such method, or it cannot say what the adapter does.
    """
    _check_tied_bias(method, rows, heads, shapes)
    pairs = grouped_pairs(family_of(config), config, heads, architecture)
    task = next((TASKS[head] for head in heads if head in TASKS), None)
    task = WRITES if config.encoder_decoder and "causal_lm" in heads else task
    if isinstance(method, Prompt | Prefix):
        table, content = virtual.written(method, modules, config, heads)
        saved, kept = _trained(pairs, trained, virtual.LEAD)
        tensors, task = {virtual.TABLE: table, **saved}, task or FEATURES
    elif isinstance(method, Tokens):
        (tensors, content), rows = written_alone(rows, pairs, LEAD), {}
        saved, kept = _trained(pairs, trained, LEAD)
        tensors, content = {**tensors, **saved}, {**method.peft_config(), **content}
    else:
        tensors, content = _of_modules(method, modules, pairs, shapes, config, architecture)
        saved, kept = _trained(pairs, trained, LEAD)
        tensors |= saved
        if (which := content.get("bias", "none")) != "none":
            made = _biases(pairs, biases, content["target_modules"], which == "all", config)
            tensors |= {name: x for name, x in made.items() if name not in tensors}
    if rows:
        _check_rows(method, modules)
    more, indices = written_rows(rows, pairs, LEAD)
    tensors |= more
    content = {
        **content,
        **indices,
        "base_model_name_or_path": base,
        "task_type": task,
        "modules_to_save": kept or None,
        "inference_mode": True,
    }
    described = {name: (NAMES[x.dtype], x.shape) for name, x in tensors.items()}
    write_file(out / WEIGHTS, described, map(np.ascontiguousarray, tensors.values()))
    (out / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_tied_bias(
    method: Method, rows: Mapping[str, Rows], heads: Mapping[str, str], shapes: Mapping[str, Any]
) -> None:
    """Refuses rows of a table that is an output with a bias, too."""
    has_rows = isinstance(method, Tokens) or bool(rows)
    for head in heads.values():
        if has_rows and f"{head}/bias" in shapes and OUTPUT not in rows:
            raise UserError(
                "PEFT leaves out the bias of an output whose table has rows of its own",
                where=f"peft, {method.name}",
                expected="a model without such a bias: other logits come out there",
                got=f"{head}/bias",
                fix="merge, and export the whole model: jaxssl merge RUN OUT",
            )


def _check_rows(method: Method, modules: Mapping[str, Any]) -> None:
    """Refuses rows of tables beside what PEFT has none for."""
    if method.name != "lora" or any(module.endswith("/tokens") for module in modules):
        raise UserError(
            "PEFT has no rows of tokens beside this adapter",
            where=f"peft, {method.name}",
            expected="lora, with other targets than tokens",
            got=f"{method.name}, and rows of the table of tokens that its base has not",
            fix="merge, and export the whole model: jaxssl merge RUN OUT",
        )


def _of_modules(
    method: Method,
    modules: Mapping[str, Mapping[str, np.ndarray]],
    pairs: Mapping[str, Sequence[tuple[str, Pair]]],
    shapes: Mapping[str, tuple[int, ...]],
    config: Any,
    architecture: str,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of an adapter of single modules, and what its configuration says."""
    given = method.peft_config()
    tensors: dict[str, np.ndarray] = {}
    targets, read, ranks, scales = [], [], {}, {}
    used = set()
    for theirs, group in pairs.items():
        chosen = [modules.get(ours.rsplit("/", 1)[0]) for ours, _ in group]
        if not any(chosen) or not theirs.endswith(".weight"):
            continue
        used |= {ours.rsplit("/", 1)[0] for ours, _ in group}
        paths = [ours.rsplit("/", 1)[0] for ours, _ in group]
        sizes = [_num_outputs(pair, shapes[ours]) for ours, pair in group]
        for layer, name in _places(group[0][1], theirs, config):
            if layer is not None and layer not in (method.changed_layers or [layer]):
                continue
            parts = [_of_layer(found, layer, group[0][1]) for found in chosen]
            made = method.peft_tensors(paths, parts, sizes)
            module = name.removesuffix(".weight")
            targets.append(module)
            if made.get("ia3_l", np.zeros((2, 1))).shape[0] == 1:
                read.append(module)
            if (scale := made.pop("scale", None)) is not None:
                ranks[module] = rank = len(next(iter(made.values())))
                scales[module] = float(scale) * rank
            tensors |= {f"{LEAD}{module}.{ending}": x for ending, x in made.items()}
    if left := modules.keys() - used:
        raise UserError(
            "an adapter lies where transformers' class has no module",
            where=sorted(left)[0],
            expected="projections and tables that the class has",
            got=architecture,
        )
    content = {
        **given,
        **_scales(given, ranks, scales),
        "target_modules": targets,
        "fan_in_fan_out": any(pair.kind == "conv1d" for g in pairs.values() for _, pair in g),
    }
    if given["peft_type"] == "IA3":
        content["feedforward_modules"] = read
    return tensors, content


def _scales(
    given: Mapping[str, Any], ranks: Mapping[str, int], scales: Mapping[str, float]
) -> dict[str, Any]:
    """The rank and the alpha that are general, and those of modules that have others."""
    if not ranks:
        return {}
    rank, alpha = given["r"], given["lora_alpha"]
    return {
        "rank_pattern": {name: x for name, x in ranks.items() if x != rank},
        "alpha_pattern": {name: x for name, x in scales.items() if x != alpha},
    }


def _places(pair: Pair, theirs: str, config: Any) -> list[tuple[int | None, str]]:
    if "{layer}" not in theirs:
        return [(None, theirs)]
    layers = [layer for layer, _ in layers_of(pair, config)]
    return [(layer, theirs.format(layer=layer)) for layer in layers]


def _of_layer(found: Any, layer: int | None, pair: Pair) -> dict[str, np.ndarray] | None:
    """An adapter's arrays in a module, of one layer of a stack."""
    if found is None:
        return None
    return {name: x if layer is None else x[layer] for name, x in found.items()}


def _num_outputs(pair: Pair, shape: tuple[int, ...]) -> int:
    """Of a projection, or the width of a table."""
    own = shape[1:] if "{layer}" in pair.theirs else shape
    return math.prod(own[pair.num_in :])


def _biases(
    pairs: Mapping[str, Sequence[tuple[str, Pair]]],
    biases: Mapping[str, np.ndarray],
    targets: Sequence[str],
    is_all: bool,
    config: Any,
) -> dict[str, np.ndarray]:
    """Those of the modules that are changed, under PEFT's names, and all others."""
    tensors = {}
    for theirs, group in pairs.items():
        if not all(ours in biases for ours, _ in group):
            continue
        for layer, name in _places(group[0][1], theirs, config):
            module = name.removesuffix(".bias")
            if module in targets:
                name = f"{module}.base_layer.bias"
            elif not is_all:
                continue
            found = [biases[ours] if layer is None else biases[ours][layer] for ours, _ in group]
            parts = [pair.give(x) for (_, pair), x in zip(group, found)]
            tensors[LEAD + name] = np.concatenate(parts)
    return tensors


def _trained(
    pairs: Mapping[str, Sequence[tuple[str, Pair]]], trained: Mapping[str, np.ndarray], lead: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of what was trained besides, and the names of its modules."""
    tensors, kept = {}, []
    for theirs, ((ours, pair), *_) in pairs.items():
        if ours not in trained:
            continue
        tensors[lead + theirs] = pair.give(trained[ours])
        top = next(part for part in theirs.split(".") if part in _tops(ours, theirs))
        kept += [top] * (top not in kept)
    return tensors, kept


def _tops(ours: str, theirs: str) -> set[str]:
    """The name of the module that PEFT is to keep: the head's, or `pooler`."""
    return {"pooler"} if ours.startswith("pooler/") else {theirs.split(".")[0]}
