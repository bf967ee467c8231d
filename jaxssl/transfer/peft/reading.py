"""Adapters out of PEFT's files: LoRA, IA3, prompts and prefixes, and what was trained beside
them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.checkpoint.hf.directory import HfDirectory
from jaxssl.checkpoint.hf.mapping import Pair, layers_of
from jaxssl.checkpoint.hf.safetensors import Reader, open_file
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import JsonObject, read_json
from jaxssl.core.layer_names import is_stacked
from jaxssl.core.names import flatten
from jaxssl.models.layers import unbox
from jaxssl.transfer.peft import virtual
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.files import CONFIG, LEAD, WEIGHTS
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora, row_lengths
from jaxssl.transfer.peft.rows import ENDING, OUTPUT, TABLE, Rows, filled, indices_of

ENDINGS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "m",
    "ia3_l": "factor",
}
"""Of tensors' names, and what they are here."""
ENDINGS_OF_TABLES = ("weight", "token_adapter.base_layer.weight", ENDING)
"""Of tables that are there whole, those that they were before some rows were trained, and these."""
PLAIN = (True, False, "gaussian", "orthogonal", "eva")
"""Initialisations that leave the model's own parameters as they are."""
AGAIN = ("pissa", "olora")
"""Those that take from the model what can be computed again: no basis of its parts is the only one,
but the product of the two matrices is. Randomised ones (`pissa_niter_4`) are not among them."""
UNREAD = {
    "lora_bias": False,
    "layer_replication": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "use_bdlora": None,
    "use_qalora": False,
}
"""Fields that say of an adapter what is not built here, with the value that says nothing."""
KNOWN = (
    *("peft_type", "task_type", "peft_version", "auto_mapping", "base_model_name_or_path"),
    *("revision", "inference_mode", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora"),
    *("use_dora", "init_lora_weights", "init_ia3_weights", "fan_in_fan_out", "target_modules"),
    *("exclude_modules", "feedforward_modules", "modules_to_save", "layers_to_transform"),
    *("layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
    *("monteclora_config", "runtime_config", "qalora_group_size", "ensure_weight_tying"),
    *("trainable_token_indices", "num_virtual_tokens", "token_dim", "num_transformer_submodules"),
    *("num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text"),
    *("tokenizer_name_or_path", "tokenizer_kwargs", "encoder_reparameterization_type"),
    *("encoder_hidden_size", "encoder_num_layers", "encoder_dropout", "prefix_projection"),
    "init_weights",
)
"""Fields that are read, or that say how an adapter was trained. Of others it is not known what they
say of what it computes."""
VIRTUAL = (*virtual.PROMPTS, *virtual.PREFIXES)
KINDS = ("LORA", "IA3", *VIRTUAL)
"""What PEFT calls the methods."""

Modules = Mapping[str, Mapping[str, np.ndarray]]
ByLayer = dict[int | None, np.ndarray]
"""Of a parameter; outside a stack the layer is None."""


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
            if ours in (TABLE, OUTPUT):
                whole = _table(path, given, tensors, names, ours, base)
                trained |= {} if whole is None else {ours: whole}
                for name in names:
                    for ending in ENDINGS_OF_TABLES:
                        left.pop(f"{name.removesuffix('.weight')}.{ending}", None)
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
            "must be in that model's directory, too",
        )
    trained |= {ours: _filled(ours, layers, base) for ours, layers in biases.items()}
    _check_output(path, trained, base)
    if is_virtual:
        kinds = () if leaves_heads else base.heads
        method, modules = _read_virtual(path, given, table, base, kinds)
        return ReadAdapter(method, modules, trained, tuple(sorted(heads)))
    if given["peft_type"] == "IA3":
        modules = {
            module: {
                name: _stacked(path, given, module, layers, base) for name, layers in arrays.items()
            }
            for module, arrays in found.items()
        }
        _check_complete(path, given, modules)
        return ReadAdapter(_ia3(modules), modules, trained, tuple(sorted(heads)))
    read = [_of_lora(path, given, module, arrays, base) for module, arrays in found.items()]
    modules = {each.module: each.arrays for each in read}
    return ReadAdapter(_lora(given, read), modules, trained, tuple(sorted(heads)))


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
            own = _own(ours, base) if whole is None else whole
            chosen = Rows(indices_of(given, module, ours), rows)
            whole = filled(path / WEIGHTS, ours, own, chosen)
        if whole is not None:
            return whole
    return None


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
        for ending in ENDINGS_OF_TABLES
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
    whole = _own(ours, base)
    for layer, x in layers.items():
        whole[layer] = x
    return whole


def _own(ours: str, base: HfDirectory) -> np.ndarray:
    """A parameter of the model."""
    shape = flatten(unbox(base.model.abstract()))[ours]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=here)
    return np.array(base.read(ours, wanted))


def _check_complete(path: Path, given: Mapping[str, Any], modules: Modules) -> None:
    """Refuses a module that has some of a method's arrays and not all, or of another method."""
    lora = {"a", "b", "m"} if given.get("use_dora") else {"a", "b"}
    known = [lora] if given["peft_type"] == "LORA" else [{"factor"}, {"in_factor"}]
    for module, arrays in modules.items():
        ranks = {0}
        if lora <= {*arrays}:
            ranks = {arrays["a"].shape[-1], arrays["b"].shape[is_stacked(module)]}
        if {*arrays} not in known or len(ranks) > 1:
            raise UserError(
                "an adapter's file lacks a tensor, or has one of another rank or method",
                where=f"{path / WEIGHTS}, {module}",
                expected=" and ".join(sorted(known[0])),
                got=", ".join(f"{name} {list(x.shape)}" for name, x in sorted(arrays.items())),
                fix="copy the adapter again",
            )


def _not_of_shape(path: Path, theirs: str, shape: tuple[int, ...]) -> UserError:
    return UserError(
        "an adapter's tensors do not fit the module that they are for",
        where=f"{path / WEIGHTS}, {theirs.removesuffix('.weight')}",
        expected=f"those of a parameter {list(shape)}",
        got="another shape",
        fix="give the model that the adapter was trained on",
    )


def read_config(path: Path) -> dict[str, Any]:
    """`adapter_config.json`. Raises UserError: another method's, or of what is not here."""
    what, fix = "an adapter's file is damaged", "copy it again"
    given: dict[str, Any] = read_json(path / CONFIG, JsonObject, what=what, fix=fix)
    kind = given.get("peft_type")
    if kind not in KINDS:
        raise _not_here(path, "peft_type", ", ".join(KINDS), kind)
    if given.get("bias", "none") not in ("none", "all", "lora_only"):
        raise _not_here(path, "bias", "none, all or lora_only", given["bias"])
    for field, value in given.items():
        if field not in KNOWN and value not in (None, False, [], {}):
            raise _not_here(path, field, UNREAD.get(field, "fields that are known"), value)
    start = given.get("init_lora_weights", True)
    is_simple = not given.get("use_dora") and given.get("bias", "none") == "none"
    if start not in PLAIN and not (start in AGAIN and is_simple):
        raise UserError(
            "the adapter is one of a model whose own parameters were changed when it began",
            where=path / CONFIG,
            expected="init_lora_weights of true, gaussian, orthogonal or eva; pissa or olora, "
            "without DoRA and biases",
            got=start,
            fix="save it as plain LoRA: save_pretrained(OUT, "
            "path_initial_model_for_weight_conversion=...) of PEFT",
        )
    return given


def _not_here(path: Path, field: str, expected: Any, got: Any) -> UserError:
    return UserError(
        "an adapter of PEFT's with what is not built here",
        where=f"{path / CONFIG}, {field}",
        expected=expected,
        got=got,
        fix="merge it where peft is installed (merge_and_unload, save_pretrained), and import that",
    )


def _tensors(path: Path, lead: str) -> dict[str, np.ndarray]:
    """Those of the file, without what stands before all their names."""
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
    """A tensor's name with the body's prefix and without it."""
    return (theirs, base.family.prefix + theirs)


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
    names = _modules_of(base, module)
    ones = np.ones_like(next(iter(layers.values())))
    for layer, name in names.items():
        if layer not in layers and _is_meant(given, name):
            _check_complete(path, given, {name: {}})
    return np.stack([layers.get(layer, ones) for layer in names])


def _ia3(modules: Modules) -> Method:
    """The method with its settings; targets are paths."""
    return Ia3(
        targets=tuple(sorted(m for m, x in modules.items() if "factor" in x)),
        inputs=tuple(sorted(m for m, x in modules.items() if "in_factor" in x)),
    )


@dataclass(frozen=True, eq=False)
class _ReadLora:
    """What a file has of one module.

    Attributes:
      arrays: of all layers of one rank, filled up with zeros, which training leaves: where both
        matrices are zero, no gradient reaches either.
      layers: those that the file has; None outside a stack.
      depth: how many there are.
    """

    module: str
    arrays: Mapping[str, np.ndarray]
    rank: int
    alpha: float
    layers: tuple[int, ...] | None = None
    depth: int = 0


def _lora(given: Mapping[str, Any], read: Sequence[_ReadLora]) -> Method:
    """The method with its settings; targets are paths."""
    rank, alpha = int(given.get("r", 8)), float(given.get("lora_alpha", 8))
    start = given.get("init_lora_weights", True)
    layers = sorted({layer for each in read for layer in each.layers or ()})
    is_all = any(each.layers is None for each in read)
    is_all = is_all or len(layers) == max(each.depth for each in read)
    read = sorted(read, key=lambda each: each.module)
    return Lora(
        rank=rank,
        alpha=alpha,
        targets=tuple(each.module for each in read),
        dropout=float(given.get("lora_dropout", 0.0)),
        rank_stabilized=bool(given.get("use_rslora", False)),
        magnitude=bool(given.get("use_dora", False)),
        bias=given.get("bias", "none"),
        initialization=start if start in AGAIN else "uniform",
        layers=None if is_all else tuple(layers),
        rank_by_target={each.module: each.rank for each in read if each.rank != rank},
        alpha_by_target={each.module: each.alpha for each in read if each.alpha != alpha},
    )


def _of_lora(
    path: Path,
    given: Mapping[str, Any],
    module: str,
    arrays: Mapping[str, ByLayer],
    base: HfDirectory,
) -> _ReadLora:
    """What a file has of a module. Ranks that differ from layer to layer are filled up with zeros;
    where scales do, the second matrices hold the rest."""
    leaf, names = _leaf_of(base, module), _modules_of(base, module)
    there = {layer for layers in arrays.values() for layer in layers}
    if None not in there:
        there |= {layer for layer, name in names.items() if _is_meant(given, name)}
    by_layer = {
        layer: {name: layers[layer] for name, layers in arrays.items() if layer in layers}
        for layer in sorted(there, key=lambda layer: layer or 0)
    }
    for layer, own in by_layer.items():
        _check_complete(path, given, {names[layer]: own})
    alphas = {layer: _alpha(given, names[layer]) for layer in by_layer}
    ranks = {layer: len(own["b"]) for layer, own in by_layer.items()}
    widest = max(ranks, key=lambda layer: ranks[layer])
    rank, alpha = ranks[widest], alphas[widest]
    if None in by_layer:
        return _ReadLora(module, by_layer[None], rank, alpha)

    def scale(layer: int | None) -> float:
        root = math.sqrt if given.get("use_rslora") else float
        return alphas[layer] / root(ranks[layer])

    if given.get("init_lora_weights", True) in AGAIN:
        by_layer = _less_first(path, given, module, by_layer, scale, base)
    made = {}
    for layer, own in by_layer.items():
        more, share = rank - ranks[layer], scale(layer) / scale(widest)
        made[layer] = dict(own)
        for a, b in (("a", "b"), ("a0", "b0")):
            if a in own:
                wide = own[b] if share == 1 else own[b] * np.asarray(share, own[b].dtype)
                made[layer][a] = np.pad(own[a], [(0, 0)] * (own[a].ndim - 1) + [(0, more)])
                made[layer][b] = np.pad(wide, [(0, more)] + [(0, 0)] * (wide.ndim - 1))
    nothing = {name: np.zeros_like(x) for name, x in made[widest].items()}
    stacked = {
        name: np.stack([made.get(layer, nothing)[name] for layer in names]) for name in nothing
    }
    if "m" in stacked and len(made) < len(names):
        kernels = _own(f"{module}/{leaf}", base)
        for layer in names.keys() - made.keys():
            stacked["m"][layer] = row_lengths(jnp.asarray(kernels[layer]), stacked["m"].ndim - 1)
    layers = tuple(layer for layer in made if layer is not None)
    return _ReadLora(module, stacked, rank, alpha, layers, len(names))


def _less_first(
    path: Path,
    given: Mapping[str, Any],
    module: str,
    by_layer: Mapping[int | None, Mapping[str, np.ndarray]],
    scale: Callable[[int | None], float],
    base: HfDirectory,
) -> dict[int | None, dict[str, np.ndarray]]:
    """The two matrices of each layer less those that they began with, and these: what PEFT takes
    from the model when it loads the file."""
    leaf = _leaf_of(base, module)
    pair = base.pairs[f"{module}/{leaf}"]
    if pair.kind != "linear" or pair.part != (0, 1) or None in by_layer:
        raise _not_here(
            path, "init_lora_weights", f"true, for {module}", given["init_lora_weights"]
        )
    kernels, made = _own(f"{module}/{leaf}", base), {}
    for layer, own in by_layer.items():
        rank = len(own["b"])
        method = Lora(
            rank=rank, alpha=scale(layer) * rank, initialization=given["init_lora_weights"]
        )
        made[layer] = {}
        for name, x in own.items():
            kernel = jnp.asarray(kernels[layer])
            first = np.asarray(method.begin(f"{name}0", module, kernel, x.shape))
            made[layer] |= {name: x - first, f"{name}0": first}
    return made


def _leaf_of(base: HfDirectory, module: str) -> str:
    return next(x for x in ("kernel", "embedding") if f"{module}/{x}" in base.pairs)


def _modules_of(base: HfDirectory, module: str) -> dict[int | None, str]:
    """{layer: the path there} of a projection or a table."""
    pair = base.pairs[f"{module}/{_leaf_of(base, module)}"]
    return {
        layer: base.family.prefix + theirs.removesuffix(".weight")
        for layer, theirs in layers_of(pair, base.config)
    }


def _is_meant(given: Mapping[str, Any], name: str) -> bool:
    """Whether a config says that PEFT changes the module of this name there."""

    def is_among(field: str) -> bool:
        found = given.get(field) or ()
        if isinstance(found, str):
            return re.fullmatch(found, name) is not None
        return any(f".{name}".endswith(f".{each}") for each in found)

    layers = given.get("layers_to_transform")
    if layers is not None and not isinstance(given.get("target_modules"), str):
        number = re.match(r".*?\.[^.]*\.(\d+)\.", name)
        chosen = [layers] if isinstance(layers, int) else layers
        if number is None or (chosen and int(number[1]) not in chosen):
            return False
    return is_among("target_modules") and not is_among("exclude_modules")


def _alpha(given: Mapping[str, Any], name: str) -> float:
    """The alpha of a module there, by the first of PEFT's patterns that fits."""
    fitting = (
        value
        for key, value in (given.get("alpha_pattern") or {}).items()
        if re.fullmatch(rf"(.*\.)?({key})", name)
    )
    return float(next(fitting, given.get("lora_alpha", 8)))
