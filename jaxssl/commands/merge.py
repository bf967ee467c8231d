"""`jaxssl merge`: a run with adapters as a run without, that gives the same.

from jaxssl.commands import merge
merge.merge("runs/reuters-lora", "runs/reuters-merged")
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxssl.commands.written_run import write_run
from jaxssl.core.errors import UserError
from jaxssl.core.files import refuse_existing
from jaxssl.run.open import open_run
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
    trained = open_run(run_dir, step, layers, alone=True, as_arrays=True)
    if not trained.config.peft:
        raise UserError(
            "this run has no adapters",
            where=run_dir,
            expected="a run trained with peft",
            got="none",
        )
    with trained.in_use():
        _, params = merge_adapters(trained.model, trained.params)
    for name, method in trained.config.peft.items():
        say(f"merged: {name} ({method.name}), computed in float32 and kept as the model is")
    source = f"{run_dir}, step {trained.step}, with its adapters merged"
    return write_run(out, trained, run_dir, params, source)
