"""jaxssl: raw text to a pretrained language model, and on to a fine-tuned one, in JAX.

What follows is loaded when it is used:

    import jaxssl
    config = jaxssl.load_config(["demo/bert"], ["data.store=stores/books", "out=runs/books"])
    jaxssl.train_run(config)
    model = jaxssl.open_run("runs/books")
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

if TYPE_CHECKING:
    from jaxssl.embedding import embed_file as embed_file
    from jaxssl.exporting import export as export
    from jaxssl.generate.decode import Sampling as Sampling
    from jaxssl.importing import import_model as import_model
    from jaxssl.predicting import predict as predict
    from jaxssl.run.config import FINETUNE as FINETUNE
    from jaxssl.run.config import load_config as load_config
    from jaxssl.run.open import evaluate_run as evaluate_run
    from jaxssl.run.open import fill_masks as fill_masks
    from jaxssl.run.open import generate_texts as generate_texts
    from jaxssl.run.open import open_run as open_run
    from jaxssl.run.train import train_run as train_run

PUBLIC = {
    "load_config": "run.config",
    "FINETUNE": "run.config",
    "train_run": "run.train",
    "open_run": "run.open",
    "evaluate_run": "run.open",
    "generate_texts": "run.open",
    "fill_masks": "run.open",
    "Sampling": "generate.decode",
    "predict": "predicting",
    "embed_file": "embedding",
    "export": "exporting",
    "import_model": "importing",
}
"""Each name and the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'jaxssl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"jaxssl.{PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*PUBLIC, "__version__"]
