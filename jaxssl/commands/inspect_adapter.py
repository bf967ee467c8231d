"""What an adapter is, by itself: its method and settings, what it changes, and the model it is for.

Of PEFT's files their headers are read, of a run its configuration and notes: no model is computed.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxssl.checkpoint.hf.directory import CONFIG, fingerprint
from jaxssl.checkpoint.hf.places import ADAPTER
from jaxssl.core.errors import UserError

HIDDEN = ("from", "frozen", "learning_rate_factor")
"""Settings of a method that are about training alone."""


def is_peft(path: Path) -> bool:
    """Whether a directory holds PEFT's files."""
    return (path / ADAPTER).is_file()


def peft_files(path: Path) -> Iterator[str]:
    """Lines about an adapter in PEFT's files.

    Raises:
      UserError: they are damaged, or of a method that is not built here.
    """
    from jaxssl.checkpoint.hf.safetensors import open_file
    from jaxssl.transfer.peft import rows, virtual
    from jaxssl.transfer.peft.files import LEAD, WEIGHTS
    from jaxssl.transfer.peft.peft_config import KNOWN, read_config
    from jaxssl.transfer.peft.reading import ENDINGS

    given, tensors = read_config(path), open_file(path / WEIGHTS)
    endings = (*ENDINGS, rows.ENDING, rows.ENDING_ALONE)
    own = {
        name: x for name, x in tensors.items() if name.endswith(endings) or name == virtual.TABLE
    }
    modules = sorted({_module(name.removeprefix(LEAD), endings) for name in own})
    yield f"adapter {path}: {given['peft_type']}, of PEFT's files"
    yield f"  settings: {_settings({k: given[k] for k in KNOWN if k in given}, PLACES)}"
    yield from _changes(modules, {name: (x.shape, x.end - x.start) for name, x in own.items()})
    beside = {
        name.removeprefix(LEAD).removeprefix(virtual.LEAD): (x.shape, x.end - x.start)
        for name, x in tensors.items()
        if name not in own
    }
    yield _beside(beside, given.get("modules_to_save") or ())
    base = given.get("base_model_name_or_path")
    yield f"  base: {_model(base)}"


PLACES = (
    *("peft_type", "base_model_name_or_path", "target_modules", "modules_to_save"),
    *("inference_mode", "auto_mapping", "revision", "peft_version", "runtime_config"),
    *("megatron_core", "megatron_config", "loftq_config", "qalora_group_size"),
)
"""Fields that are told elsewhere, or that say nothing of what is computed."""


def of_run(run_dir: Path, names: Sequence[str]) -> Iterator[str]:
    """Lines about adapters of a run.

    Raises:
      UserError: it is no run, or has no adapter of such a name.
    """
    import numpy as np

    from jaxssl.checkpoint.bases import describe_base
    from jaxssl.checkpoint.manager import CheckpointManager
    from jaxssl.checkpoint.parameter_index import read_base, saved_leaves
    from jaxssl.core.config import to_dict
    from jaxssl.core.layer_names import ADAPTERS, canonical
    from jaxssl.core.names import flatten, matches
    from jaxssl.models.layers import unbox
    from jaxssl.run.adapters import own_parameters
    from jaxssl.run.adopted import choose_adapter
    from jaxssl.run.networks import make_model
    from jaxssl.run.recipes import read_config

    config = read_config(run_dir)
    for name in names:
        choose_adapter(name, config.peft, f"{run_dir}#{name}", "--adapter")
    model = make_model(config).with_segments({})
    shapes = {
        path: (tuple(x.shape), math.prod(x.shape) * np.dtype(x.dtype).itemsize)
        for path, x in flatten(unbox(model.abstract())).items()
    }
    base = read_base(run_dir).get("")
    manager = CheckpointManager(run_dir / "checkpoints", config.checkpoint)
    held = {
        canonical(path) for step in manager.steps() for path in saved_leaves(manager.path(step))
    }
    heads = {
        path: x
        for path, x in shapes.items()
        if path in held and path.split("/")[0] not in (*model.body_parts, *config.networks)
    }
    for name in names:
        method = config.peft[name]
        own = {path: x for path, x in shapes.items() if matches(own_parameters(name), path)}
        modules = {path.rsplit("/", 1)[0].removeprefix(f"{ADAPTERS}/") for path in own}
        yield f"adapter {name} of {run_dir}: {method.name}"
        yield f"  settings: {_settings(to_dict(method), ('name', *HIDDEN))}"
        yield from _changes(sorted(modules), own, method.changed_layers)
        if trained := method.trains_beside(sorted(modules)):
            yield f"  trained besides, of the model itself: {', '.join(trained)}"
        if method.from_:
            yield f"  it began as that of {method.from_}"
        yield _beside(heads, sorted({path.split("/")[0] for path in heads}))
        yield "  base: " + (
            "in its own checkpoints"
            if base is None
            else f"{describe_base(base)}, checksum {base['manifest']}"
        )


def _settings(given: Mapping[str, Any], without: Sequence[str]) -> str:
    """Those that are not empty."""
    kept = {k: v for k, v in given.items() if k not in without and v not in (None, False, [], {})}
    return ", ".join(f"{key}={value}" for key, value in kept.items()) or "none"


def _changes(
    modules: Sequence[str],
    arrays: Mapping[str, tuple[Sequence[int], int]],
    layers: Sequence[int] | None = None,
) -> Iterator[str]:
    """What is changed, and how large it is.

    Args:
      arrays: {name: (shape, bytes)}.
      layers: which of a stack's are changed; None is those in the modules' names, or all.
    """
    numbers = sorted({int(x) for name in modules for x in re.findall(r"\.(\d+)\.", name)})
    plain = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in modules)
    yield f"  changes: {', '.join(plain) or 'no module'}"
    chosen = numbers if layers is None else layers
    if chosen or any("/layers/" in name for name in modules):
        named = f"  layers: {', '.join(map(str, chosen)) if chosen else 'all'}"
        yield named + " (what is held for the others changes nothing)" * (layers is not None)
    count = sum(math.prod(shape) for shape, _ in arrays.values())
    size = sum(size for _, size in arrays.values())
    yield f"  parameters: {count:,}, {size:,} bytes"


def _module(name: str, endings: Sequence[str]) -> str:
    """The module of a tensor; a table of virtual tokens is one by itself."""
    ending = next((ending for ending in endings if name.endswith(ending)), "")
    return name.removesuffix(f".{ending}")


def _beside(arrays: Mapping[str, tuple[Sequence[int], int]], heads: Sequence[str]) -> str:
    """What was trained with it."""
    if not arrays:
        return "  beside it: nothing"
    count = sum(math.prod(shape) for shape, _ in arrays.values())
    return f"  beside it: {', '.join(heads) or ', '.join(arrays)}; {count:,} parameters"


def _model(base: str | None) -> str:
    """The model that PEFT's files name, with its checksum where it is here."""
    if not base:
        return "not named"
    path = Path(base)
    if not (path / CONFIG).is_file():
        return f"{base}, which is not here: its checksum is not known"
    try:
        return f"{base}, checksum {fingerprint(path)}"
    except UserError as error:
        return f"{base}, which cannot be read: {error.what}"
