"""An adapter of PEFT's that is imported: its model, and the parameters that it brings."""

from pathlib import Path

import numpy as np

from jaxssl.checkpoint.hf.directory import TASK_SCOPES, HfDirectory
from jaxssl.checkpoint.hf.places import ADAPTER
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.run.config import RunConfig
from jaxssl.transfer.peft.reading import ReadAdapter, read_config

NAME = "default"
"""Of the adapter in its run."""


def is_adapter(path: Path, base: str | None) -> bool:
    """Whether a directory holds an adapter. Raises UserError: `base` is given for a model."""
    is_one = (path / ADAPTER).is_file()
    if base is not None and not is_one:
        raise UserError(
            "a base is given for what is no adapter",
            where="--base",
            expected=f"a directory with {ADAPTER}",
            got=path,
        )
    return is_one


def base_of(path: Path, base: str | None) -> str:
    """The model that an adapter is for."""
    stated = base or read_config(path).get("base_model_name_or_path")
    if not stated:
        raise UserError(
            "the adapter does not name its model",
            where=path / ADAPTER,
            expected="base_model_name_or_path",
            got="nothing",
            fix="give it: --base DIRECTORY_OR_NAME",
        )
    return str(stated)


def parameters_of(
    adapter: ReadAdapter, found: HfDirectory, config: RunConfig
) -> dict[str, np.ndarray]:
    """The parameters that come with an adapter, by canonical name."""
    heads = [head for head in found.heads if head in TASK_SCOPES]
    task = next((task.head_name for task in config.tasks.values()), "")
    trained = {
        f"{task}/{name.split('/', 1)[1]}" if name.split("/")[0] in heads else name: x
        for name, x in adapter.trained.items()
    }
    own = {
        f"{ADAPTERS}/{module}/{NAME}_{name}": x
        for module, arrays in adapter.modules.items()
        for name, x in arrays.items()
    }
    return {**trained, **own}
