"""A run directory of parameters that were computed from runs: merged, averaged."""

import dataclasses
import shutil
from pathlib import Path

from jaxssl.checkpoint.hf.generation import GENERATION
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.core.files import new_directory
from jaxssl.core.types import Params
from jaxssl.run.config import Imported, RunConfig
from jaxssl.run.directory import open_run_directory
from jaxssl.run.open import TrainedModel
from jaxssl.run.sealing import seal_run
from jaxssl.transfer.freezing import Freezing


def write_run(
    out: str | Path, like: TrainedModel, like_dir: str | Path, params: Params, source: str
) -> Path:
    """Makes the run directory `out`, with one checkpoint.

    Args:
      like: the run whose configuration, tokenizer and step it has; adapters aside.
      params: of the model without adapters, laid out as that run's.
      source: what it is made of, in words.
    """
    config: RunConfig = dataclasses.replace(
        like.config,
        out=str(out),
        init=None,
        peft={},
        networks={},
        freezing=Freezing(),
        precision=dataclasses.replace(like.config.precision, frozen=None),
        imported=Imported(source=source),
    )
    with new_directory(out) as directory:
        open_run_directory(config, like.tokenizer, source, lambda text: None, place=directory)
        if (Path(like_dir) / GENERATION).is_file():
            shutil.copyfile(Path(like_dir) / GENERATION, directory / GENERATION)
        manager = CheckpointManager(directory / "checkpoints", config.checkpoint, compress=False)
        try:
            with like.in_use():
                manager.save(like.step, {"params": params}, {})
            manager.wait()
        finally:
            manager.close()
        seal_run(directory)
    return Path(out)
