"""`jaxssl soup`: one model of several that were fine-tuned from one.

from jaxssl.commands import soup
soup.soup(["runs/a", "runs/b"], "runs/both")
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.bases import read_bases
from jaxssl.commands.written_run import write_run
from jaxssl.core.errors import UserError
from jaxssl.core.files import refuse_existing
from jaxssl.core.json_files import read_json
from jaxssl.core.names import flatten
from jaxssl.models.layers import unbox
from jaxssl.run.feeds import open_split
from jaxssl.run.networks import inits
from jaxssl.run.open import TrainedModel, evaluate_on, open_run, stream_from_here
from jaxssl.run.whole import laid_out_like, whole_arrays
from jaxssl.transfer.averaging import Average, Uniform

UNIFORM = Uniform()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoupConfig:
    """What a command says of an average."""

    method: Average = UNIFORM
    """How the models are made one."""


Flat = Mapping[str, np.ndarray]


def soup(
    run_dirs: Sequence[str | Path],
    out: str | Path,
    method: Average = UNIFORM,
    *,
    weights: Sequence[float] = (),
    greedy: bool = False,
    step: int | str = "best",
    say: Callable[[str], None] = print,
) -> Path:
    """Makes the run directory `out` of the average of runs of one shape, that started from one.

    Args:
      weights: of the runs, in their order; 1 each if none are given.
      greedy: take a run in only if that does not lower the score on the validation split, the best
        run first (Wortsman et al., 2022).
      step: a number, "last" or "best", of each.
      say: is told what was made, and of a greedy soup each try.

    Raises:
      UserError: fewer than two runs, of different shapes or starts, or that are not trained whole.
    """
    refuse_existing(out)
    _check(run_dirs, method, weights)
    if greedy and (weights or method != UNIFORM):
        raise UserError(
            "a greedy soup is a plain mean",
            where="--greedy",
            expected="--method uniform without weights",
            got=f"{method.name}, weights {list(weights)}",
        )
    runs = [open_run(run, step, alone=True, as_arrays=True) for run in run_dirs]
    _check_alike(runs, run_dirs, method.needs_base)
    tensors = [whole_arrays(run.params) for run in runs]
    base = whole_arrays(_base(runs[0]).params) if method.needs_base else {}
    given = list(weights) or [1.0] * len(runs)
    chosen = list(range(len(runs)))
    if greedy:
        chosen = _greedy(runs, run_dirs, tensors, say)
    params = _combined([tensors[i] for i in chosen], [given[i] for i in chosen], base, method)
    names = ", ".join(str(run_dirs[i]) for i in chosen)
    say(f"{method.name} of {len(chosen)}: {names}")
    first = chosen[0]
    placed = laid_out_like(params, runs[first].params)
    return write_run(out, runs[first], run_dirs[first], placed, f"{method.name} of {names}")


def _check(run_dirs: Sequence[Any], method: Average, weights: Sequence[float]) -> None:
    if len({str(run) for run in run_dirs}) < max(2, len(run_dirs)):
        raise UserError(
            "there are not several runs to average",
            where="jaxssl soup RUN RUN ... --out OUT",
            expected="two or more, each once",
            got=", ".join(map(str, run_dirs)) or "none",
        )
    method.check(len(run_dirs))
    if weights and len(weights) != len(run_dirs):
        raise UserError(
            "not a weight for each run",
            where="--weights",
            expected=f"{len(run_dirs)} numbers",
            got=list(weights),
        )
    if weights and not method.needs_base and sum(weights) == 0:
        raise UserError(
            "weights that add up to nothing have no mean",
            where="--weights",
            expected="another sum than 0",
            got=list(weights),
        )


def _check_alike(runs: Sequence[TrainedModel], run_dirs: Sequence[Any], needs_base: bool) -> None:
    """Refuses runs whose parameters do not correspond."""
    shapes = [{p: x.shape for p, x in flatten(unbox(run.params)).items()} for run in runs]
    starts = [_start(Path(run)) for run in run_dirs]
    for run, run_dir, shape, start in zip(runs, run_dirs, shapes, starts):
        if run.config.peft:
            raise UserError(
                "a run with adapters is not averaged",
                where=run_dir,
                expected="a run of whole parameters",
                got=", ".join(run.config.peft),
                fix=f"jaxssl merge {run_dir} NEW_RUN, and give that",
            )
        if needs_base and run.config.precision.frozen is not None:
            raise UserError(
                "what a run changed cannot be told from what its codes did",
                where=run_dir,
                expected="a run without precision.frozen, for --method arithmetic, ties or dare",
                got=f"precision.frozen={run.config.precision.frozen}",
                fix="--method uniform",
            )
        if shape != shapes[0]:
            different = sorted({*shape.items()} ^ {*shapes[0].items()})
            raise UserError(
                "the runs have different parameters",
                where=run_dir,
                expected=f"those of {run_dirs[0]}",
                got=f"a difference in {different[0][0]}",
            )
        if start != starts[0]:
            raise UserError(
                "the runs did not start from the same model",
                where=run_dir,
                expected=f"the start of {run_dirs[0]}: {starts[0][:16] or 'none'}",
                got=start[:16] or "none",
                fix="average runs that were fine-tuned from one and the same checkpoint",
            )


def _start(run_dir: Path) -> str:
    """The checksum of what a run started from; nothing for one that started afresh."""
    path = run_dir / ledger.FILE_NAME
    if not path.is_file():
        return ""
    what, fix = "the ledger of a run is damaged", "restore it from a copy"
    noted = read_bases(read_json(path, what=what, fix=fix).get("from"), path)
    return str(noted.get("", {}).get("manifest", ""))


def _base(run: TrainedModel) -> TrainedModel:
    """What a run started from."""
    init = inits(run.config).get("")
    if init is None or not (init.run_dir / "config.yaml").is_file():
        raise UserError(
            "the change since the start cannot be told",
            where="--method",
            expected="runs that started from a run",
            got="none" if init is None else init.from_,
            fix="--method uniform; or import what they start from, and fine-tune that",
        )
    return open_run(init.run_dir, init.chosen, alone=True, as_arrays=True)


def _combined(
    tensors: Sequence[Flat], weights: Sequence[float], base: Flat, method: Average
) -> dict[str, np.ndarray]:
    """The average, each tensor in its own dtype."""
    found = {}
    for path, first in tensors[0].items():
        wide = np.promote_types(first.dtype, np.float32)
        start = base.get(path)
        if start is not None and start.shape != first.shape:
            raise UserError(
                "a parameter has another shape than what it started from",
                where=path,
                expected=list(start.shape),
                got=list(first.shape),
                fix="--method uniform",
            )
        start = None if start is None else start.astype(wide)
        each = [x[path].astype(wide) for x in tensors]
        found[path] = method.combine(path, each, weights, start).astype(first.dtype)
    return found


def _greedy(
    runs: Sequence[TrainedModel],
    run_dirs: Sequence[Any],
    tensors: Sequence[Flat],
    say: Callable[[str], None],
) -> list[int]:
    """Which runs are in, the best first."""
    (stream, *others) = runs[0].config.all_streams.values()
    if others or stream.validation is None:
        raise UserError(
            "a greedy soup goes by the score on a validation split",
            where="--greedy",
            expected="runs of one stream, with a validation split",
            got=f"{len(others) + 1} streams" if others else "none",
        )
    here = stream_from_here(Path(run_dirs[0]), runs[0].config, stream)
    data, _ = open_split(here, stream.validation, runs[0].config.model, runs[0].tokenizer)
    metric = stream.objective.metric
    sign = -1 if stream.objective.is_lower_better(metric) else 1

    def score(chosen: Sequence[int]) -> float:
        params = _combined([tensors[i] for i in chosen], [1.0] * len(chosen), {}, UNIFORM)
        run = dataclasses.replace(runs[0], params=laid_out_like(params, runs[0].params))
        size = stream.data.batch_size
        return sign * evaluate_on(run, data, stream.objective, size, show=False).values[metric]

    alone = {number: score([number]) for number in range(len(runs))}
    order = sorted(alone, key=lambda number: -alone[number])
    chosen, best = order[:1], alone[order[0]]
    say(f"{run_dirs[order[0]]} alone: {metric} {sign * best:.4f}")
    for number in order[1:]:
        tried = score([*chosen, number])
        taken = tried >= best
        say(f"with {run_dirs[number]}: {sign * tried:.4f}, {'taken' if taken else 'left out'}")
        if taken:
            chosen, best = [*chosen, number], tried
    return chosen
