"""jaxssl: raw text to a pretrained language model, and on to a fine-tuned one, in JAX.

What follows is loaded when it is used:

    import jaxssl
    config = jaxssl.load_config(["demo/bert"], ["data.store=stores/books", "out=runs/books"])
    jaxssl.train_run(config)
    model = jaxssl.open_run("runs/books")

A plugin takes what it is made of from here too: `register`, and the base class of its kind
(docs/plugins.md).
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from jaxssl.commands.embed import embed_file as embed_file
    from jaxssl.commands.export import export as export
    from jaxssl.commands.import_hf import import_model as import_model
    from jaxssl.commands.predict import predict as predict
    from jaxssl.core.errors import UserError as UserError
    from jaxssl.core.registry import register as register
    from jaxssl.generate.settings import Sampling as Sampling
    from jaxssl.models.heads import Head as Head
    from jaxssl.models.heads import LabelHead as LabelHead
    from jaxssl.models.transformer import ModelConfig as ModelConfig
    from jaxssl.objectives.base import Loss as Loss
    from jaxssl.objectives.base import Objective as Objective
    from jaxssl.objectives.base import Sums as Sums
    from jaxssl.optim.base import Optimizer as Optimizer
    from jaxssl.optim.schedules import Schedule as Schedule
    from jaxssl.run.open import evaluate_run as evaluate_run
    from jaxssl.run.open import fill_masks as fill_masks
    from jaxssl.run.open import generate_texts as generate_texts
    from jaxssl.run.open import open_run as open_run
    from jaxssl.run.plugins import load_plugins as load_plugins
    from jaxssl.run.recipes import FINETUNE as FINETUNE
    from jaxssl.run.recipes import load_config as load_config
    from jaxssl.run.train import train_run as train_run
    from jaxssl.scores.base import Score as Score
    from jaxssl.tasks.base import Task as Task
    from jaxssl.tasks.pooled import PooledTask as PooledTask

PUBLIC = {
    "load_config": "run.recipes",
    "FINETUNE": "run.recipes",
    "train_run": "run.train",
    "open_run": "run.open",
    "evaluate_run": "run.open",
    "generate_texts": "run.open",
    "fill_masks": "run.open",
    "Sampling": "generate.settings",
    "predict": "commands.predict",
    "embed_file": "commands.embed",
    "export": "commands.export",
    "import_model": "commands.import_hf",
    "load_plugins": "run.plugins",
    "register": "core.registry",
    "UserError": "core.errors",
    "Objective": "objectives.base",
    "Loss": "objectives.base",
    "Sums": "objectives.base",
    "Task": "tasks.base",
    "PooledTask": "tasks.pooled",
    "Head": "models.heads",
    "LabelHead": "models.heads",
    "ModelConfig": "models.transformer",
    "Optimizer": "optim.base",
    "Schedule": "optim.schedules",
    "Score": "scores.base",
}
"""Each name and the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'jaxssl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"jaxssl.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*PUBLIC, "__version__"]
