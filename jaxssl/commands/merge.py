"""`jaxssl merge`: a run with adapters as a run without, that gives the same.

from jaxssl.commands import merge
merge.merge("runs/reuters-lora", "runs/reuters-merged")
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxssl.checkpoint.hf.generation import GENERATION
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.core.errors import UserError
from jaxssl.core.files import new_directory, refuse_existing
from jaxssl.run.config import Imported
from jaxssl.run.directory import open_run_directory
from jaxssl.run.open import open_run
from jaxssl.run.sealing import seal_run
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.peft.merge import merge_adapters


def merge(
    run_dir: str | Path,
    out: str | Path,
    *,
    step: int | str = "best",
    layers: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Path:
    """Makes the run directory `out`, with one checkpoint of the merged parameters.

    Args:
      step: a number, "last" or "best".
      layers: hardware files and overrides over the run's configuration.
      say: is told what was merged.

    Raises:
      UserError: no such run, one without adapters, an adapter that cannot be merged, or `out` is
        there.
    """
    refuse_existing(out)
    trained = open_run(run_dir, step, layers, alone=True)
    config = trained.config
    if not config.peft:
        raise UserError(
            "this run has no adapters",
            where=run_dir,
            expected="a run trained with peft",
            got="none",
        )
    with trained.in_use():
        _, params = merge_adapters(trained.model, trained.params)
    for name, method in config.peft.items():
        say(f"merged: {name} ({method.name}), computed in float32 and kept as the model is")
    merged = dataclasses.replace(
        config,
        out=str(out),
        init=None,
        peft={},
        networks={},
        freezing=Freezing(),
        imported=Imported(source=f"{run_dir}, step {trained.step}, with its adapters merged"),
    )
    with new_directory(out) as directory:
        open_run_directory(
            merged, trained.tokenizer, f"merged of {run_dir}", lambda text: None, place=directory
        )
        if (Path(run_dir) / GENERATION).is_file():
            shutil.copyfile(Path(run_dir) / GENERATION, directory / GENERATION)
        manager = CheckpointManager(directory / "checkpoints", config.checkpoint, compress=False)
        try:
            with trained.in_use():
                manager.save(trained.step, {"params": params}, {})
            manager.wait()
        finally:
            manager.close()
        seal_run(directory)
    return Path(out)
