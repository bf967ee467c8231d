"""Adapters out of PEFT's files: LoRA, IA3, prompts and prefixes, and what was trained beside
them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.checkpoint.hf.directory import HfDirectory
from jaxssl.checkpoint.hf.mapping import Pair, layers_of
from jaxssl.checkpoint.hf.safetensors import Reader, open_file
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.layers import unbox
from jaxssl.transfer.peft import virtual
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.files import CONFIG, LEAD, WEIGHTS
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.modules_there import (
    ByLayer,
    Modules,
    check_complete,
    modules_of,
    own_array,
)
from jaxssl.transfer.peft.peft_config import VIRTUAL, is_meant, read_config
from jaxssl.transfer.peft.reading_lora import lora_of, read_lora
from jaxssl.transfer.peft.rows import (
    ALONE,
    ENDING,
    ENDING_ALONE,
    FIELD_ALONE,
    OUTPUT,
    TABLE,
    Rows,
    filled,
    indices_of,
)
from jaxssl.transfer.peft.tokens import of_rows

ENDINGS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "m",
    "ia3_l": "factor",
}
"""Of tensors' names, and what they are here."""
BEHIND_ALONE = "base_layer.weight"
ENDINGS_OF_TABLES = ("weight", "token_adapter.base_layer.weight", ENDING)
"""Of tables that are there whole, those that they were before some rows were trained, and these."""


@dataclass(frozen=True, eq=False)
class ReadAdapter:
    """What a directory of PEFT's holds.

    Attributes:
      modules: {path of a module of ours: its arrays}, of a stack all layers.
      trained: parameters of the model that were trained beside it, by name.
      heads: tensors of heads that the model has not.
    """

    method: Method
    modules: Modules
    trained: Mapping[str, np.ndarray]
    heads: tuple[str, ...] = ()


def read_adapter(path: Path, base: HfDirectory, *, leaves_heads: bool = False) -> ReadAdapter:
    """Reads an adapter of a model.

    Args:
      leaves_heads: leave modules that were trained whole beside it, and that the model has no place
        for, as a task's head.

    Raises:
      UserError: files that are damaged or lack something, a method or a field that is not built
        here, or tensors that the model has no place for.
    """
    given = read_config(path)
    is_virtual = given["peft_type"] in VIRTUAL
    tensors = _tensors(path, virtual.LEAD if is_virtual else LEAD)
    table = tensors.pop(virtual.TABLE, None) if is_virtual else None
    left = dict(tensors)
    found: dict[str, dict[str, ByLayer]] = {}
    shapes = {name: tuple(x.shape) for name, x in flatten(unbox(base.model.abstract())).items()}
    trained: dict[str, np.ndarray] = {}
    biases: dict[str, ByLayer] = {}
    alone: dict[str, Rows] = {}
    for ours, pair in base.pairs.items():
        module, leaf = ours.rsplit("/", 1)
        for layer, theirs in layers_of(pair, base.config):
            names = _names(base, theirs)
            inner = shapes[ours] if layer is None else shapes[ours][1:]
            if leaf in ("kernel", "embedding"):
                try:
                    arrays = _of_module(tensors, names, pair, inner)
                except ValueError:
                    raise _not_of_shape(path, theirs, inner) from None
                for name, array in arrays.items():
                    found.setdefault(module, {}).setdefault(name, {})[layer] = array
                for name in names:
                    for ending in ENDINGS:
                        left.pop(f"{name.removesuffix('.weight')}.{ending}", None)
            if leaf == "bias" and given.get("bias", "none") != "none":
                names = [each for name in names for each in (_beside(name), name)]
                for name in names:
                    if name in tensors:
                        taken = pair.take(tensors[name], inner)
                        biases.setdefault(ours, {})[layer] = taken
                        left.pop(name, None)
            if ours in (TABLE, OUTPUT) and given["peft_type"] == ALONE:
                alone |= _rows_alone(given, tensors, names, ours)
                for name in names:
                    left.pop(f"{name.removesuffix('.weight')}.{ENDING_ALONE}", None)
                    copy = left.pop(f"{name.removesuffix('.weight')}.{BEHIND_ALONE}", None)
                    if copy is not None:
                        _check_same_table(path, copy, ours, base)
            elif ours in (TABLE, OUTPUT):
                whole = _table(path, given, tensors, names, ours, base)
                trained |= {} if whole is None else {ours: whole}
                for name in names:
                    for ending in ENDINGS_OF_TABLES:
                        left.pop(f"{name.removesuffix('.weight')}.{ending}", None)
            if ours in (TABLE, OUTPUT):
                continue
            name = next((name for name in names if name in tensors), None)
            if name is not None and layer is None:
                trained[ours] = pair.take(tensors[name], inner)
                left.pop(name, None)
    tables = _names(base, base.pairs[TABLE].theirs)
    left = {
        name: x
        for name, x in left.items()
        if not _is_copy(name, tensors) and not _repeats(name, x, tensors, tables)
    }
    whole = given.get("modules_to_save") or ()
    heads = [name for name in left if leaves_heads and {*name.split(".")} & {*whole}]
    left = {name: x for name, x in left.items() if name not in heads}
    if left:
        raise UserError(
            "the adapter has tensors that the model has no place for",
            where=path / WEIGHTS,
            expected=f"modules of {base.path}",
            got=", ".join(sorted(left)[:3]) + (", ..." if len(left) > 3 else ""),
            fix="give the model that the adapter was trained on; a head that the adapter brings "
            "must be in that model's directory, too: save its class of transformers with as many "
            "labels there, as AutoModelForSequenceClassification.from_pretrained(MODEL, "
            "num_labels=N).save_pretrained(DIRECTORY)",
        )
    trained |= {ours: _filled(ours, layers, base) for ours, layers in biases.items()}
    _check_output(path, trained, base)
    if is_virtual:
        kinds = () if leaves_heads else base.heads
        method, modules = _read_virtual(path, given, table, base, kinds)
        return ReadAdapter(method, modules, trained, tuple(sorted(heads)))
    if given["peft_type"] == ALONE:
        method, modules = _tokens(path, alone, base)
        return ReadAdapter(method, modules, trained, tuple(sorted(heads)))
    if given["peft_type"] == "IA3":
        modules = {
            module: {
                name: _stacked(path, given, module, layers, base) for name, layers in arrays.items()
            }
            for module, arrays in found.items()
        }
        check_complete(path, given, modules)
        return ReadAdapter(_ia3(modules), modules, trained, tuple(sorted(heads)))
    read = [read_lora(path, given, module, arrays, base) for module, arrays in found.items()]
    modules = {each.module: each.arrays for each in read}
    return ReadAdapter(lora_of(given, read), modules, trained, tuple(sorted(heads)))


def _read_virtual(
    path: Path,
    given: Mapping[str, Any],
    table: np.ndarray | None,
    base: HfDirectory,
    heads: Sequence[str],
) -> tuple[Method, Modules]:
    """A prompt or a prefix."""
    name = "prompt" if given["peft_type"] in virtual.PROMPTS else "prefix"
    virtual.check_model(name, base.config, heads, path)
    if table is None:
        raise UserError(
            "an adapter's file lacks a tensor",
            where=path / WEIGHTS,
            expected=virtual.TABLE,
            got="none",
            fix="copy the adapter again",
        )
    return virtual.read(path / WEIGHTS, given, table, base.config)


def _table(
    path: Path,
    given: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    names: Sequence[str],
    ours: str,
    base: HfDirectory,
) -> np.ndarray | None:
    """A table of tokens, or the output, that a file has whole or in some rows."""
    for name in names:
        module = name.removesuffix(".weight")
        whole, before, rows = (tensors.get(f"{module}.{end}") for end in ENDINGS_OF_TABLES)
        whole = before if whole is None else whole
        if whole is not None and ours == OUTPUT:
            whole = whole.T
        if rows is not None:
            own = own_array(ours, base) if whole is None else whole
            chosen = Rows(indices_of(given, module, ours), rows)
            whole = filled(path / WEIGHTS, ours, own, chosen)
        if whole is not None:
            return whole
    return None


def _rows_alone(
    given: Mapping[str, Any], tensors: Mapping[str, np.ndarray], names: Sequence[str], ours: str
) -> dict[str, Rows]:
    """Rows of a table that are all that is trained, by the table's name."""
    ids = tuple(given.get(FIELD_ALONE) or ())
    endings = (f"{name.removesuffix('.weight')}.{ENDING_ALONE}" for name in names)
    found = next((tensors[name] for name in endings if name in tensors), None)
    return {} if found is None else {ours: Rows(ids, found)}


def _check_same_table(path: Path, copy: np.ndarray, ours: str, base: HfDirectory) -> None:
    """Refuses rows that differ from another table than the model's: PEFT writes what they lie over
    where tokens were added."""
    own = own_array(ours, base)
    own = own.T if ours == OUTPUT else own
    if copy.shape != own.shape or not np.array_equal(copy.astype(own.dtype), own):
        raise UserError(
            "the adapter's rows lie over another table than the model's",
            where=f"{path / WEIGHTS}, {base.pairs[ours].theirs}",
            expected=f"the model's own, {list(own.shape)}",
            got=f"{list(copy.shape)}" + (", other values" if copy.shape == own.shape else ""),
            fix="give the model with the tokens as the adapter was trained on it "
            "(resize_token_embeddings, save_pretrained)",
        )


def _tokens(path: Path, rows: Mapping[str, Rows], base: HfDirectory) -> tuple[Method, Modules]:
    """The adapter of rows that the model has."""
    for name, each in rows.items():
        if not each.indices or len(each.indices) != len(each.values):
            raise UserError(
                "an adapter's file lacks rows of tokens",
                where=f"{path / WEIGHTS}, {name}",
                expected=f"as many rows as {FIELD_ALONE} has",
                got=f"{len(each.values)} rows, {len(each.indices)} tokens",
                fix="copy the adapter again",
            )
        if max(each.indices) >= base.config.vocab_size:
            raise UserError(
                "an adapter has rows of tokens that the model has not",
                where=f"{path / CONFIG}, {FIELD_ALONE}",
                expected=f"below {base.config.vocab_size}, the model's vocabulary",
                got=max(each.indices),
                fix="give the model with as many rows (resize_token_embeddings, save_pretrained)",
            )
    if TABLE not in rows:
        raise UserError(
            "an adapter's file lacks rows of tokens",
            where=path / WEIGHTS,
            expected=f"those of {base.pairs[TABLE].theirs}",
            got=", ".join(rows) or "none",
            fix="train the table's rows, too, or merge the adapter where peft is installed",
        )
    more = {OUTPUT} & base.pairs.keys() - rows.keys()  # changed by nothing there
    ids = rows[TABLE].indices
    rows = {**rows, **{name: Rows.of(own_array(name, base), ids, name) for name in more}}
    return of_rows(rows, lambda name: own_array(name, base))


def _check_output(path: Path, trained: Mapping[str, np.ndarray], base: HfDirectory) -> None:
    """Refuses more tokens in what is read than in what is written."""
    table, output = trained.get(TABLE), trained.get(OUTPUT)
    size = base.config.vocab_size if output is None else output.shape[-1]
    if OUTPUT in base.pairs and table is not None and len(table) != size:
        raise UserError(
            "an adapter's file lacks rows of tokens",
            where=f"{path / WEIGHTS}, {base.pairs[OUTPUT].theirs}",
            expected=f"{len(table)} rows, as the table of embeddings has with the adapter",
            got=size,
            fix="train the output's rows, too, or merge the adapter where peft is installed",
        )


def _beside(name: str) -> str:
    """A bias's name where PEFT has wrapped its module."""
    return f"{name.removesuffix('.bias')}.base_layer.bias"


def _repeats(
    name: str, x: np.ndarray, tensors: Mapping[str, np.ndarray], tables: Sequence[str]
) -> bool:
    """Whether a tensor is that of the table once more, which PEFT writes of a tied output, too."""
    origins = (
        tensors.get(f"{table.removesuffix('.weight')}.{ending}")
        for table in tables
        for ending in (*ENDINGS_OF_TABLES, ENDING_ALONE, BEHIND_ALONE)
        if name.endswith(f".{ending}")
    )
    return any(origin is not None and np.array_equal(x, origin) for origin in origins)


def _is_copy(name: str, tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a tensor is one that PEFT writes twice, of a module that it keeps with its biases, or
    of a table that it keeps whole."""
    parts = name.split(".")
    plain = [part for part in parts if part not in ("original_module", "modules_to_save")]
    return plain != parts and (name.endswith(".bias") or ".".join(plain) in tensors)


def _filled(ours: str, layers: ByLayer, base: HfDirectory) -> np.ndarray:
    """A parameter of all layers, the model's own in those that a file has none of."""
    if None in layers:
        return layers[None]
    whole = own_array(ours, base)
    for layer, x in layers.items():
        whole[layer] = x
    return whole


def _not_of_shape(path: Path, theirs: str, shape: tuple[int, ...]) -> UserError:
    return UserError(
        "an adapter's tensors do not fit the module that they are for",
        where=f"{path / WEIGHTS}, {theirs.removesuffix('.weight')}",
        expected=f"those of a parameter {list(shape)}",
        got="another shape",
        fix="give the model that the adapter was trained on",
    )


def _tensors(path: Path, lead: str) -> dict[str, np.ndarray]:
    """Those of the file, without what stands before all their names."""
    if not (path / WEIGHTS).is_file():
        pickled = path / "adapter_model.bin"
        raise UserError(
            "an adapter's file is not there",
            where=path / WEIGHTS,
            expected="a file of safetensors",
            got=f"{pickled.name}, which is pickled" if pickled.is_file() else "none",
            fix="load it where peft is installed, and save it again (save_pretrained)"
            if pickled.is_file()
            else "copy both files of the adapter",
        )
    reader, found = Reader(), {}
    for name, tensor in open_file(path / WEIGHTS).items():
        if not name.startswith(lead) and name != virtual.TABLE:
            raise UserError(
                "not a file of an adapter",
                where=path / WEIGHTS,
                expected=f"tensors {lead}...",
                got=name,
            )
        found[name.removeprefix(lead)] = reader.view(tensor)
    return found


def _names(base: HfDirectory, theirs: str) -> tuple[str, ...]:
    """A tensor's name with the prefix that a body has in one of the classes and without any."""
    family = base.family
    prefixes = (family.prefix, *(each.prefix for each in family.architectures.values()))
    return tuple(dict.fromkeys((theirs, *(x + theirs for x in prefixes if x))))


def _of_module(
    tensors: Mapping[str, np.ndarray],
    names: Sequence[str],
    pair: Pair,
    shape: tuple[int, ...],
) -> dict[str, np.ndarray]:
    """The arrays of a projection or a table of this shape, one layer's: `a`, `b`, `factor`,
    `in_factor`."""
    ins, outs = shape[: pair.num_in], shape[pair.num_in :]
    number, count = pair.part
    found = {}
    for name in names:
        for ending, kind in ENDINGS.items():
            x = tensors.get(f"{name.removesuffix('.weight')}.{ending}")
            if x is None:
                continue
            if kind == "a":
                found["a"] = x.T.reshape(*ins, len(x))
            elif kind == "b":
                part = x[number * (len(x) // count) : (number + 1) * (len(x) // count)]
                found["b"] = part.T.reshape(x.shape[1], *outs)
            elif kind == "m":
                size = len(x) // count
                found["m"] = x[number * size : (number + 1) * size].reshape(outs)
            elif x.shape[0] == 1:
                found["in_factor"] = x.reshape(ins)
            else:
                size = len(x) // count
                found["factor"] = x[number * size : (number + 1) * size].reshape(outs)
    return found


def _stacked(
    path: Path,
    given: Mapping[str, Any],
    module: str,
    layers: Mapping[int | None, np.ndarray],
    base: HfDirectory,
) -> np.ndarray:
    """One array of factors of all layers, ones where the adapter leaves a layer out."""
    if None in layers:
        return layers[None]
    names = modules_of(base, module)
    ones = np.ones_like(next(iter(layers.values())))
    for layer, name in names.items():
        if layer not in layers and is_meant(given, name):
            check_complete(path, given, {name: {}})
    return np.stack([layers.get(layer, ones) for layer in names])


def _ia3(modules: Modules) -> Method:
    """The method with its settings; targets are paths."""
    return Ia3(
        targets=tuple(sorted(m for m, x in modules.items() if "factor" in x)),
        inputs=tuple(sorted(m for m, x in modules.items() if "in_factor" in x)),
    )
