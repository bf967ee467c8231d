"""A Hugging Face directory as parameters of ours, read straight into their shardings."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint.hf.families import FAMILIES
from jaxssl.checkpoint.hf.mapping import Architecture, Family, Pair, layers_of
from jaxssl.checkpoint.hf.places import mistaken
from jaxssl.checkpoint.hf.safetensors import Reader, Tensor, open_directory
from jaxssl.checkpoint.hf.transpose import copy
from jaxssl.checkpoint.ledger import Leaf
from jaxssl.core.errors import UserError, UserErrors, did_you_mean
from jaxssl.core.files import sha256
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import flatten, matches
from jaxssl.core.paths import suggestion
from jaxssl.models.heads import HEADS, Head, LabelHead, Scope
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, ModelConfig

CONFIG = "config.json"
OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""What norms' tensors were called in files converted from TensorFlow."""
TASK_SCOPES: dict[str, Scope] = {"row": "row", "token": "token", "span": "token"}
"""What a task's head is called here, and what it looks at."""


@dataclass(frozen=True, eq=False)
class HfDirectory:
    """What a directory holds, and nothing of it read yet.

    Attributes:
      given: `config.json`.
      config: our configuration of its body.
      heads: our language model heads that it has, and `row`, `token` or `span` for a task's.
      tensors: by name, without the prefix of the body.
      pairs: by our parameter's canonical name.
      leftovers: tensors that no parameter stands for.
    """

    path: Path
    family: Family
    given: Mapping[str, Any]
    config: ModelConfig
    heads: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    pairs: Mapping[str, Pair]
    leftovers: tuple[str, ...]

    def pieces(self, name: str) -> list[tuple[int | None, Tensor]]:
        """(layer, tensor) for each tensor of a parameter."""
        pair = self.pairs[name]
        there = layers_of(pair, self.config)
        return [(layer, self.tensors[theirs]) for layer, theirs in there]

    def dtype(self, name: str) -> np.dtype:
        """The dtype that holds all of a parameter's tensors exactly."""
        found = {tensor.numpy_dtype for _, tensor in self.pieces(name)}
        return found.pop() if len(found) == 1 else np.dtype(np.float32)

    def notes(self) -> list[str]:
        """What of `config.json` counts for nothing here, in words."""
        texts = []
        for there, here in self.family.read_as.items():
            value, instead = self.given.get(there), self.given.get(here)
            if None not in (value, instead) and value != instead:
                texts.append(f"{there}={value} is not used, {here}={instead} stands for both")
        stated = {str(self.given[name]) for name in ("dtype", "torch_dtype") if name in self.given}
        if len(stated) > 1:
            texts.append(f"dtype and torch_dtype ({', '.join(sorted(stated))}) are not used")
        if self.given.get("auto_map"):
            texts.append("code of its own (auto_map) is not run")
        return [f"note: {self.path.name}/{CONFIG}: {text}" for text in texts]

    @functools.cached_property
    def model(self) -> Model:
        """The model with all heads that are here; a task's is called `row`, `token` or `span`."""
        return Model(self.config, tuple(map(self._head, self.heads)))

    def _head(self, name: str) -> Head:
        if name not in TASK_SCOPES:
            return HEADS[name]
        size = self.tensors[self.pairs[f"{name}/output/kernel"].theirs].shape[0]
        return LabelHead(name=name, size=size, scope=TASK_SCOPES[name])

    def leaves(self) -> dict[str, Leaf]:
        """Each parameter as a whole, and each leftover tensor by its own name.

        Raises:
          UserError: every tensor of another shape than `config.json` says, at once.
        """
        abstract = flatten(unbox(self.model.abstract()))
        shapes = {name: tuple(leaf.shape) for name, leaf in abstract.items()}
        errors, leaves = [], {}
        for name, pair in self.pairs.items():
            whole = shapes[name]
            inner = whole[1:] if is_stacked(name) else whole
            for layer, tensor in self.pieces(name):
                wanted = pair.shape_there(inner)
                if tensor.shape != wanted:
                    there = pair.theirs.format(layer=layer)
                    errors.append(_wrong_shape(self.path, there, wanted, tensor.shape))
            leaves[name] = Leaf(whole, self.dtype(name).name)
        if errors:
            raise errors[0] if len(errors) == 1 else UserErrors(errors)
        for name in self.leftovers:
            leaves[name] = Leaf(self.tensors[name].shape, self.tensors[name].numpy_dtype.name)
        return leaves

    def read(self, name: str, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        """A parameter, each shard made of the rows that it needs, on its own device.

        Args:
          wanted: its shape, dtype and sharding.
        """
        reader, pieces, pair = Reader(), self.pieces(name), self.pairs[name]
        shape, dtype, sharding = tuple(wanted.shape), np.dtype(wanted.dtype), wanted.sharding
        inner = shape[1:] if is_stacked(name) else shape
        shards: dict[tuple, np.ndarray] = {}

        def shard(index: Any) -> np.ndarray:
            bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape))
            if bounds not in shards:
                shards[bounds] = made = aligned(tuple(b - a for a, b in bounds), dtype)
                if pair.first_layer and bounds[0][0] < pair.first_layer:
                    made[: pair.first_layer - bounds[0][0]] = 1  # a norm that is not there
                for layer, tensor in pieces:
                    values = pair.take(reader.view(tensor), inner)
                    forget = functools.partial(reader.forget, tensor)
                    if layer is None:
                        copy(made, values[index], pair.num_in, forget)
                    elif bounds[0][0] <= layer < bounds[0][1]:
                        copy(made[layer - bounds[0][0]], values[index[1:]], pair.num_in, forget)
            return shards[bounds]

        assert sharding is not None
        return jax.make_array_from_callback(shape, sharding, shard)


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that JAX takes over on a CPU as it is: at a multiple of 64 bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


# --- Opening ------------------------------------------------------------------------------------


State = tuple[tuple[str, int, int], ...]


def _state(path: Path) -> State:
    """Name, size and time of each file: while they stay, what was found holds."""
    files = [file for file in path.glob("*") if file.suffix in (".json", ".safetensors")]
    stats = [(file.name, file.stat()) for file in sorted(files) if file.exists()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def fingerprint(path: Path) -> str:
    """SHA-256 of the configuration and of all files of weights: reads them once."""
    return _fingerprint(path.absolute(), _state(path))


@functools.lru_cache(maxsize=8)
def _fingerprint(path: Path, state: State) -> str:
    del state
    files = {path / CONFIG, *(tensor.file for tensor in open_directory(path).values())}
    listed = [[file.name, sha256(file)] for file in sorted(files)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def open_model(path: Path) -> HfDirectory:
    """Opens a directory; headers alone are read.

    Raises:
      UserError: no such model here, a missing or damaged file, parameters that are not there.
    """
    return _open_model(path.absolute(), _state(path))


@functools.lru_cache(maxsize=8)
def _open_model(path: Path, state: State) -> HfDirectory:
    """A start asks several times, and tied tensors are compared value by value."""
    del state
    given = _read_config(path)
    family = _family(path, given)
    tensors = {_new_name(name): tensor for name, tensor in open_directory(path).items()}
    architecture = _architecture(path, given, family)
    prefix = architecture.prefix or family.prefix  # also where a body's class has none of its own
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    config = _configuration(path, family, given, frozenset(tensors))
    tensors = _with_tied(family, config, tensors)
    pairs = {pair.ours: pair for pair in family.body(config)}
    heads = list(architecture.heads)
    for head in family.heads:
        more = family.heads[head](config)
        if head in TASK_SCOPES:
            is_here = head in heads
        else:
            is_here = head in heads or (more and all(p.theirs in tensors for p in more))
        if is_here:
            pairs.update({_in_head(head, pair.ours): pair for pair in more})
            heads += [head] if head not in heads else []
    if set(heads) & set(family.pooled) and not config.body().pooler:
        raise _lacks(path, ["pooler.dense.weight"], ())
    _check_layers(path, config, pairs, tensors)
    _check_there(path, config, pairs, tensors)
    used = {there for pair in pairs.values() for _, there in layers_of(pair, config)}
    left = [name for name in tensors if name not in used]
    left = [name for name in left if not any(matches(buffer, name) for buffer in family.buffers)]
    left = [name for name in left if not _repeats(path, family, name, tensors)]
    left = [name for name in left if not _is_zero(path, family, name, tensors)]
    return HfDirectory(path, family, given, config, tuple(heads), tensors, pairs, tuple(left))


def _with_tied(
    family: Family, config: ModelConfig, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors, with those under their own names that are stored under the name of what is tied
    to them alone, as writers do that keep the last of several names."""
    own = {pair.theirs for pairs in family.heads.values() for pair in pairs(config)}
    found = dict(tensors)
    for name, origin in family.repeated.items():
        here = origin.removeprefix(family.prefix)
        if name in found and here not in found and name not in own:
            found[here] = found.pop(name)
    return found


def _configuration(
    path: Path, family: Family, given: Mapping[str, Any], names: frozenset[str]
) -> ModelConfig:
    try:
        return family.read_config(given, names)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            "a configuration is damaged",
            where=path / CONFIG,
            expected="fields with the values that transformers gives them",
            got=f"{type(error).__name__}: {error}",
        ) from error


def _in_head(head: str, ours: str) -> str:
    """The name here of a task head's parameter: `row/output/kernel`."""
    return f"{head}/{ours}" if head in TASK_SCOPES else ours


def _read_config(path: Path) -> dict[str, Any]:
    if what := mistaken(path):
        raise _no_model(path, *what)
    file = path / CONFIG
    if not os.path.lexists(file):
        got = f"no {CONFIG} in it" if path.is_dir() else "no such directory"
        raise _no_model(path, got, suggestion(path))
    return read_json(file, what="a configuration is damaged", fix="copy or download it again")


def _no_model(path: Path, got: str, fix: str | None) -> UserError:
    return UserError(
        "not a Hugging Face directory",
        where=path,
        expected=f"a directory with {CONFIG} and safetensors",
        got=got,
        fix=fix,
    )


def _family(path: Path, given: Mapping[str, Any]) -> Family:
    model_type = given.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            "this family of models is not built here",
            where=f"{path / CONFIG}, model_type",
            expected=", ".join(FAMILIES),
            got=model_type,
            fix="a family of your own is loaded with --plugin FILE",
        )
    if given.get("quantization_config"):
        raise UserError(
            "quantised weights are not read",
            where=f"{path / CONFIG}, quantization_config",
            expected="weights in float32, float16 or bfloat16",
            got=given["quantization_config"].get("quant_method"),
        )
    return FAMILIES[model_type]


def _architecture(path: Path, given: Mapping[str, Any], family: Family) -> Architecture:
    names = given.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            "a configuration is damaged",
            where=f"{path / CONFIG}, architectures",
            expected="a list of names of classes",
            got=names,
        )
    if not names:  # a body alone, or with heads that their own names tell
        return Architecture()
    known = family.architectures.get(names[0])
    if known is None:
        raise UserError(
            "this class of models is not built here",
            where=f"{path / CONFIG}, architectures",
            expected=", ".join(family.architectures),
            got=names[0],
            fix=did_you_mean(names[0], family.architectures),
        )
    return known


def _new_name(name: str) -> str:
    for old, new in OLD_NAMES.items():
        if name.endswith(f"LayerNorm{old}"):
            return name.removesuffix(old) + new
    return name


def _check_layers(
    path: Path, config: ModelConfig, pairs: Mapping[str, Pair], tensors: Mapping[str, Tensor]
) -> None:
    """Counts the layers in the files: a tensor too many or too few of each would not tell why."""
    stacked: dict[str, set[str]] = {}
    for pair in pairs.values():
        if "{layer}" in pair.theirs:
            before, after = map(re.escape, pair.theirs.split("{layer}"))
            stacked.setdefault(pair.ours.split("/")[0], set()).add(rf"{before}(\d+){after}")
    for stack in config.stacks:
        found = [re.fullmatch("|".join(stacked[stack.name]), name) for name in tensors]
        layers = {int(next(filter(None, match.groups()))) for match in found if match}
        count = max(layers, default=-1) + 1
        if count and count != stack.depth:
            several = f" of the {stack.name}" * (len(config.stacks) > 1)
            raise UserError(
                f"the files have another number of layers{several} than config.json says",
                where=path,
                expected=f"{stack.depth}, as in {CONFIG}",
                got=f"{count} in the files",
            )


def _check_there(
    path: Path, config: ModelConfig, pairs: Mapping[str, Pair], tensors: Mapping[str, Tensor]
) -> None:
    names = [there for p in pairs.values() for _, there in layers_of(p, config)]
    missing = [there for there in names if there not in tensors]
    if missing:
        raise _lacks(path, missing, tensors.keys() - set(names))


def _lacks(path: Path, missing: Sequence[str], left: Collection[str]) -> UserError:
    """
    Args:
      left: tensors that stand for nothing else, one of which may be meant.
    """
    return UserError(
        "the files lack parameters of the model that config.json describes",
        where=path,
        expected=f"{missing[0]}" + f" and {len(missing) - 1} others" * (len(missing) > 1),
        got="not there: " + ", ".join(missing[:3]) + ", ..." * (len(missing) > 3),
        fix=did_you_mean(missing[0], sorted(left)),
    )


def _repeats(path: Path, family: Family, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor repeats one that is tied to it; refuses it where it differs."""
    if name not in family.repeated:
        return False
    origin = tensors[family.repeated[name].removeprefix(family.prefix)]
    reader = Reader()
    same = np.array_equal(reader.view(tensors[name]), reader.view(origin))
    if not same:
        raise UserError(
            "a tensor that should repeat another differs from it",
            where=f"{path}, {name}",
            expected=f"the values of {family.repeated[name]}, to which config.json ties it",
            got="others",
        )
    return True


def _is_zero(path: Path, family: Family, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a tensor is one that must be zero; refuses it where it is not."""
    if name not in family.zeros:
        return False
    if Reader().view(tensors[name]).any():
        raise UserError(
            "this model has something that is not built here",
            where=f"{path}, {name}",
            expected="zeros",
            got="other numbers",
        )
    return True


def _wrong_shape(path: Path, name: str, wanted: Sequence[int], found: Sequence[int]) -> UserError:
    return UserError(
        "a tensor does not have the shape that config.json says",
        where=f"{path}, {name}",
        expected=tuple(wanted),
        got=tuple(found),
    )
