"""Parameters of ours as a Hugging Face directory's files."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.directory import CONFIG, TASK_SCOPES
from jaxssl.checkpoint.hf.families import family_of
from jaxssl.checkpoint.hf.mapping import Family, Pair, layers_of
from jaxssl.checkpoint.hf.safetensors import DTYPES, INDEX, NAMES, SINGLE, write_file
from jaxssl.core.errors import UserError

SHARD_BYTES = 5_000_000_000
"""The most that one file of weights holds, as in `transformers`."""
Parameters = Mapping[str, Sequence[jax.Array]]
"""By canonical name: a stack in its segments, from the first layer to the last, all else alone."""


def architecture_of(config: Any, heads: Sequence[str]) -> str:
    """The class of `transformers` with these heads: language models' by name, a task's as `row`,
    `token` or `span`.

    Raises:
      UserError: there is none.
    """
    known = family_of(config).architectures
    for name, architecture in known.items():
        if set(architecture.heads) == set(heads):
            return name
    raise UserError(
        "transformers has no class of this family with these heads",
        where=f"{config.name} with {', '.join(heads)}",
        expected=", ".join(known),
        got="none of them",
    )


def write_directory(
    out: Path,
    config: Any,
    heads: Mapping[str, str],
    parameters: Parameters,
    *,
    dtype: str,
    more: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Writes `config.json` and the weights; returns the name of the class.

    Args:
      heads: {the head's name on the other side, as for `architecture_of`: its name here}.
      parameters: ours.
      dtype: of the weights, float32, float16 or bfloat16.
      more: further fields of `config.json`.

    Raises:
      UserError: the family has no such model.
    """
    family = family_of(config)
    architecture = architecture_of(config, list(heads))
    given = {
        "architectures": [architecture],
        "model_type": family.model_type,
        **family.write_config(config),
        "dtype": dtype,
        **more,
    }
    pairs = _pairs(family, config, heads, architecture)
    tensors = _Tensors(pairs, config.num_layers, parameters, DTYPES[NAMES[np.dtype(dtype)]])
    _write_weights(out, tensors, shard_bytes)
    (out / CONFIG).write_text(json.dumps(given, indent=2) + "\n", encoding="utf-8")
    return architecture


def _pairs(
    family: Family, config: Any, heads: Mapping[str, str], architecture: str
) -> dict[str, list[tuple[str, Pair]]]:
    """{pattern of the tensor's name: its parts in order, (our parameter's name, pair)}."""
    prefix = family.architectures[architecture].prefix
    prefix = family.prefix if prefix is None else prefix
    listed = [(pair.ours, prefix + pair.theirs, pair) for pair in family.body(config)]
    for there, here in heads.items():
        into = f"{here}/" if there in TASK_SCOPES else ""
        listed += [(into + p.ours, p.theirs, p) for p in family.heads[there](config)]
    grouped: dict[str, list[tuple[str, Pair]]] = {}
    for ours, theirs, pair in listed:
        grouped.setdefault(theirs, []).append((ours, pair))
    return {name: sorted(group, key=lambda g: g[1].part) for name, group in grouped.items()}


class _Tensors:
    """The tensors of a directory: their shapes at once, their values one at a time."""

    def __init__(
        self,
        pairs: Mapping[str, list[tuple[str, Pair]]],
        num_layers: int,
        parameters: Parameters,
        dtype: np.dtype,
    ):
        self.dtype, self._parameters = dtype, parameters
        self._parts: dict[str, tuple[int | None, list[tuple[str, Pair]]]] = {}
        for theirs, group in pairs.items():
            pair = group[0][1]
            places = layers_of(pair, num_layers) if "{layer}" in theirs else [(None, theirs)]
            for layer, _ in places:
                self._parts[theirs.format(layer=layer)] = (layer, group)

    def names(self) -> list[str]:
        """All names, in the order they are written in."""
        return list(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        layer, group = self._parts[name]
        ours, pair = group[0]
        shape = self._parameters[ours][0].shape
        return pair.shape_there(shape if layer is None else shape[1:])

    def value(self, name: str) -> np.ndarray:
        layer, group = self._parts[name]
        parts = [pair.give(_fetch(self._parameters[ours], layer)) for ours, pair in group]
        axis = 1 if group[0][1].kind == "conv1d" else 0
        return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis)).astype(
            self.dtype, copy=False
        )


def _fetch(segments: Sequence[jax.Array], layer: int | None) -> np.ndarray:
    """A parameter, or one layer of a stack: no more than that comes to the host."""
    if layer is None:
        return np.asarray(segments[0])
    for segment in segments:
        if layer < len(segment):
            return np.asarray(segment[layer])
        layer -= len(segment)
    raise AssertionError("a layer that no segment has")


def _write_weights(out: Path, tensors: _Tensors, shard_bytes: int) -> None:
    shapes = {name: tensors.shape(name) for name in tensors.names()}
    size = {name: math.prod(shape) * tensors.dtype.itemsize for name, shape in shapes.items()}
    files: list[list[str]] = [[]]
    filled = 0
    for name in shapes:
        if files[-1] and filled + size[name] > shard_bytes:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += size[name]
    placed = {}
    for number, names in enumerate(files, start=1):
        file = SINGLE
        if len(files) > 1:
            file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        described = {name: (NAMES[tensors.dtype], shapes[name]) for name in names}
        write_file(out / file, described, _values(tensors, names))
        placed.update(dict.fromkeys(names, file))
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(size.values())}, "weight_map": placed}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _values(tensors: _Tensors, names: Sequence[str]) -> Iterator[np.ndarray]:
    for name in names:
        yield tensors.value(name)
