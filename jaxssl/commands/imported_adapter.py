"""An adapter of PEFT's that is imported: its model, and the parameters that it brings."""

from pathlib import Path

import numpy as np

from jaxssl.checkpoint.hf.directory import TASK_SCOPES, HfDirectory
from jaxssl.checkpoint.hf.places import ADAPTER
from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.run.config import RunConfig
from jaxssl.transfer.peft.peft_config import read_config
from jaxssl.transfer.peft.reading import ReadAdapter
from jaxssl.transfer.peft.rows import OUTPUT, TABLE

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


def rows_of(adapter: ReadAdapter | None, found: HfDirectory) -> int:
    """How many tokens the model has rows for with an adapter."""
    table = None if adapter is None else adapter.trained.get(TABLE)
    return found.config.vocab_size if table is None else len(table)


def brings_tokens(adapter: ReadAdapter | None, path: Path, found: HfDirectory) -> bool:
    """Whether the tokenizer is the adapter's: it has rows of tokens, and a tokenizer beside them,
    or more of them than the model's could know."""
    if adapter is None or TABLE not in adapter.trained:
        return False
    has_one = any(any(path.glob(pattern)) for pattern in ("tokenizer*", "*.model"))
    return has_one or rows_of(adapter, found) > found.config.vocab_size


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
    for name in {TABLE, OUTPUT} & trained.keys():  # rows that have no token
        more = config.model.vocab_size - len(trained[TABLE])
        padding = [(0, 0), (0, more)] if name == OUTPUT else [(0, more), (0, 0)]
        trained[name] = np.pad(trained[name], padding)
    own = {
        f"{ADAPTERS}/{module}/{NAME}_{name}": x
        for module, arrays in adapter.modules.items()
        for name, x in arrays.items()
    }
    return {**trained, **own}
