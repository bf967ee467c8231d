"""Parameters of ours as a Hugging Face directory's files."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.directory import CONFIG, TASK_SCOPES
from jaxssl.checkpoint.hf.families import family_of
from jaxssl.checkpoint.hf.mapping import Family, Pair, layers_of
from jaxssl.checkpoint.hf.safetensors import INDEX, NAMES, SINGLE, write_file
from jaxssl.checkpoint.hf.transpose import copy
from jaxssl.core.errors import UserError
from jaxssl.core.prefetch import prefetch

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
        if architecture.has(config, heads):
            return name
    part = "" if not config.left_out else f"the {config.part} of a "
    raise UserError(
        "transformers has no class of this family with these heads",
        where=f"{part}{config.name} with {', '.join(heads) or 'none'}",
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
    pairs = grouped_pairs(family, config, heads, architecture)
    tensors = _Tensors(pairs, config, parameters, np.dtype(dtype))
    _write_weights(out, tensors, shard_bytes)
    (out / CONFIG).write_text(json.dumps(given, indent=2) + "\n", encoding="utf-8")
    return architecture


def grouped_pairs(
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
        config: Any,
        parameters: Parameters,
        dtype: np.dtype,
    ):
        self.dtype, self._parameters = dtype, parameters
        self._memory = [np.empty(0, np.uint8)] * 3  # one is written while the next is made
        self._parts: dict[str, tuple[int | None, list[tuple[str, Pair]]]] = {}
        for theirs, group in pairs.items():
            pair = group[0][1]
            places = layers_of(pair, config) if "{layer}" in theirs else [(None, theirs)]
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

    def _scratch(self, shape: tuple[int, ...]) -> np.ndarray:
        """An array in memory that the next but one takes over."""
        size = math.prod(shape) * self.dtype.itemsize
        memory = self._memory.pop(0)
        self._memory.append(memory if len(memory) >= size else np.empty(size, np.uint8))
        return self._memory[-1][:size].view(self.dtype).reshape(shape)

    def value(self, name: str) -> np.ndarray:
        """The tensor, until the next but one is asked for."""
        layer, group = self._parts[name]
        if len(group) == 1:
            values = group[0][1].give(_fetch(self._parameters[group[0][0]], layer))
            if values.dtype == self.dtype and values.flags.c_contiguous:
                return values
        made = self._scratch(self.shape(name))
        axis = 1 if group[0][1].kind == "conv1d" else 0
        for (ours, pair), place in zip(group, np.split(made, len(group), axis)):
            values = pair.give(_fetch(self._parameters[ours], layer))
            copy(place, values, place.ndim - 1)
            if self.dtype == np.float16 and values.dtype != np.float16:
                _check_small(values, place, name)
        return made


def _check_small(values: np.ndarray, cast: np.ndarray, name: str) -> None:
    if (np.isinf(cast) & np.isfinite(values)).any():
        raise UserError(
            "a weight is too large for float16",
            where=name,
            expected=f"at most {np.finfo(np.float16).max:g}",
            got="infinite, after the cast",
            fix="use bfloat16, or float32",
        )


def _fetch(segments: Sequence[jax.Array], layer: int | None) -> np.ndarray:
    """A parameter, or one layer of a stack: no more than that comes to the host, unless it is
    there already."""
    if layer is None:
        return np.asarray(segments[0])
    for segment in segments:
        if layer < len(segment):
            (device, *others) = segment.devices()
            is_here = device.platform == "cpu" and not others
            return np.asarray(segment)[layer] if is_here else np.asarray(segment[layer])
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
        write_file(out / file, described, prefetch(map(tensors.value, names)))
        placed.update(dict.fromkeys(names, file))
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(size.values())}, "weight_map": placed}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
