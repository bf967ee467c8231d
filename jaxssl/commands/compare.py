"""Several fine-tuned runs side by side: seeds of one recipe, and recipes against each other."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json
from jaxssl.core.seal import inside
from jaxssl.parallel import hosts
from jaxssl.run.config import RunConfig
from jaxssl.run.feeds import open_split
from jaxssl.run.open import evaluate_on, open_run, stream_from_here
from jaxssl.run.train import SCORES, train_run
from jaxssl.scores.bootstrap import bootstrap_difference
from jaxssl.tasks.base import Task
from jaxssl.train.stopping import NotFinite

SEEDS = "seeds.json"


# --- Seeds --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedResult:
    """How one seed ended.

    Attributes:
      score: the task's metric at the best checkpoint; None if the loss was not finite.
      baseline: what guessing without looking at the text scores.
    """

    seed: int
    run: str
    score: float | None
    baseline: float

    @property
    def is_collapsed(self) -> bool:
        """Whether it learnt nothing: no better than the majority baseline."""
        return self.score is None or not self.score > self.baseline  # nan: the same value for all


@dataclass(frozen=True)
class Seeds:
    """`seeds.json`."""

    metric: str
    runs: tuple[SeedResult, ...]


def run_seeds(config: RunConfig, count: int, say=print) -> list[SeedResult] | None:
    """Trains `count` runs in `config.out`/seed-N, with seeds from `train.seed` on, and writes
    `seeds.json`. The seed decides heads, dropout and the order of examples; held-out rows stay.

    Returns:
      How each ended; None where a signal stopped one: started again, it goes on there.

    Raises:
      UserError: a mistake in the configuration.
    """
    if count < 2:
        raise UserError("too few seeds", where="--seeds", expected="at least 2", got=count)
    stream = next((s for s in config.all_streams.values() if s.objective.named_tasks), None)
    if stream is None or stream.validation is None:
        raise UserError(
            "seeds are compared by their validation",
            where="objective, evaluation.split",
            expected="a task, and the name of a split",
            got=None if stream is None else stream.validation,
        )
    out, results = Path(config.out), []
    for seed in range(config.train.seed, config.train.seed + count):
        say(f"\n== seed {seed}")
        result = _run_seed(config, seed, out / f"seed-{seed}", say)
        if result is None:
            return None
        results.append(result)
    if hosts.is_first():
        with atomic_write(out / SEEDS) as file:
            rows = [dataclasses.asdict(result) for result in results]
            json.dump({"metric": stream.objective.metric, "runs": rows}, file, indent=1)
    return results


def _run_seed(config: RunConfig, seed: int, run_dir: Path, say: Any) -> SeedResult | None:
    one = dataclasses.replace(
        config,
        out=str(run_dir),
        train=dataclasses.replace(config.train, seed=seed),
    ).with_data_seed(seed)
    try:
        outcome = train_run(one, say)
    except NotFinite as error:
        say(f"seed {seed}: {error}")
        return SeedResult(seed, run_dir.name, None, 0.0)
    if outcome.stopped_by is not None:
        return None
    scores = read_json(run_dir / SCORES, what="the scores are damaged", fix="evaluate it again")
    name, stream = next((n, s) for n, s in config.all_streams.items() if s.objective.named_tasks)
    split = scores["splits"]["/".join(part for part in (name, stream.validation) if part)]
    metric = stream.objective.metric
    baseline = split["baseline"][metric]
    baseline = baseline if baseline is not None and math.isfinite(baseline) else 0.0
    return SeedResult(seed, run_dir.name, split["scores"][metric], baseline)


def seeds_table(results: Sequence[SeedResult], metric: str) -> list[str]:
    """Mean, deviation and collapsed runs, in a few lines."""
    good = [r.score for r in results if r.score is not None and math.isfinite(r.score)]
    lines = [
        f"  seed {r.seed:<6}{_shown(r.score):>9}" + "  collapsed" * r.is_collapsed for r in results
    ]
    if good:
        deviation = float(np.std(good, ddof=1)) if len(good) > 1 else math.nan
        lines.append(f"{metric}: mean {np.mean(good):.4f}, deviation {deviation:.4f} (n - 1)")
    collapsed = sum(result.is_collapsed for result in results)
    return [
        *lines,
        f"{collapsed} of {len(results)} runs collapsed (no better than the majority baseline)",
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


# --- Comparison ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Group:
    """A run, or the seeds of one, evaluated on one split.

    Attributes:
      is_fresh: whether it started from nothing.
      seeds: of its runs, in order.
      tallies: float64 [runs, examples, M]; see `Task.tallies`.
      references: of the examples, to see that others are scored on the same.
      without_score: seeds whose loss was not finite, which are left out.
    """

    name: str
    task: Task
    is_fresh: bool
    seeds: tuple[int, ...]
    tallies: np.ndarray
    references: Any
    without_score: tuple[int, ...] = ()

    @property
    def scores(self) -> np.ndarray:
        """The task's metric of each run."""
        return self.task.from_tallies(self.tallies.sum(axis=1))


@dataclass(frozen=True)
class Difference:
    """How much better a group is than the first, in the task's metric.

    Attributes:
      low: of the interval that holds 95% of the bootstrap's differences.
    """

    group: str
    other: str
    difference: float
    low: float
    high: float
    is_transfer: bool
    """Whether the one started from a base and the other from nothing."""

    @property
    def verdict(self) -> str:
        """What it means, in words."""
        if self.low > 0:
            return "better" + (": transfer helps" if self.is_transfer else "")
        if self.high < 0:
            return "WORSE" + (": negative transfer" if self.is_transfer else "")
        return "no difference shown"


def compare(
    runs: Sequence[str | Path], *, split: str = "validation", samples: int = 2000, seed: int = 0
) -> tuple[list[Group], list[Difference]]:
    """Evaluates runs on the same examples and compares each with the others.

    A run is a run directory, or one of `finetune --seeds`, whose seeds are then paired. The
    bootstrap draws examples, and pairs of seeds where there are several, with replacement.

    Raises:
      UserError: fewer than two runs, other tasks or other examples, no samples.
    """
    refuse_below(1, samples=samples)
    refuse_below(0, seed=seed)
    if len(runs) < 2:
        raise UserError(
            "nothing to compare with", where="RUN", expected="two or more runs", got=len(runs)
        )
    groups = [_group(Path(run), split) for run in runs]
    for group in groups[1:]:
        _check_same(groups[0], group, split)
    differences = []
    for i, one in enumerate(groups):
        for other in groups[:i]:
            better, worse = (other, one) if one.is_fresh and not other.is_fresh else (one, other)
            metric, (ours, theirs, paired) = better.task.from_tallies, paired_runs(better, worse)
            found = bootstrap_difference(metric, ours, theirs, samples, seed, paired=paired)
            is_transfer = worse.is_fresh and not better.is_fresh
            differences.append(Difference(better.name, worse.name, *found, is_transfer))
    return groups, differences


def paired_runs(one: Group, other: Group) -> tuple[np.ndarray, np.ndarray, bool]:
    """Tallies of both groups' runs, and whether they are pairs: those of the same seeds.

    A seed without a score in one of them is left out of both.
    """
    all_seeds = [{*group.seeds, *group.without_score} for group in (one, other)]
    common = [seed for seed in one.seeds if seed in other.seeds]
    if all_seeds[0] != all_seeds[1] or not common:
        return one.tallies, other.tallies, False
    first, second = (
        group.tallies[[group.seeds.index(seed) for seed in common]] for group in (one, other)
    )
    return first, second, True


def _group(path: Path, split: str) -> Group:
    """The evaluated runs of a path: a run's, or those of its seeds."""
    runs, without = [path], ()
    if (path / SEEDS).is_file():
        what, fix = "the list of seeds is damaged", "restore it from a copy"
        listed = read_json(path / SEEDS, Seeds, what=what, fix=fix).runs
        scored = [result.run for result in listed if result.score is not None]
        runs = [inside(path, run, what=what, fix=fix) for run in scored]
        without = tuple(result.seed for result in listed if result.score is None)
    tallies, seeds, examples, task, is_fresh = [], [], None, None, False
    for run in runs:
        model = open_run(run, "best")
        stream = model.config.labelled
        if stream is None or model.config.imported is not None:
            raise UserError(
                "a run that was not fine-tuned here has no data to compare on",
                where=run,
                expected="runs of `jaxssl finetune`",
                got=model.config.purpose,
                fix="jaxssl report RUN RUN compares pretraining runs; jaxssl evaluate scores one",
            )
        task, is_fresh = stream.objective.tasks[0], model.config.is_fresh
        stream = stream_from_here(run, model.config, stream)
        data, _ = open_split(stream, split, model.config.model, model.tokenizer)
        made = evaluate_on(model, data, task, stream.data.batch_size)
        examples = data.references(made.rows)
        tallies.append(task.tallies(made.predictions, examples))
        seeds.append(model.config.train.seed)
    if task is None:
        raise UserError(
            "none of the seeds has a score", where=path, expected="a run that ended", got="none"
        )
    name = path.name or str(path)
    return Group(name, task, is_fresh, tuple(seeds), np.stack(tallies), examples, without)


def _check_same(first: Group, group: Group, split: str) -> None:
    """Refuses runs whose scores are not of the same examples."""
    if type(first.task) is type(group.task):
        identity = first.task.identity
        if identity(first.references) == identity(group.references):
            return
    raise UserError(
        "the runs were not evaluated on the same examples",
        where=f"{first.name}, {group.name}: split {split}",
        expected="one task, with the same examples and labels",
        got=f"{len(first.references)} of {first.task.name}, {len(group.references)} of "
        f"{group.task.name}",
        fix="give both the same data.tables (and its seed, where rows are held out)",
    )


def comparison_table(groups: Sequence[Group], differences: Sequence[Difference]) -> list[str]:
    """What was compared and what came out, in a few lines."""
    width = max(len(group.name) for group in groups)
    metric = groups[0].task.metric
    lines = [f"{metric}, {groups[0].tallies.shape[1]:,} examples"]
    for group in groups:
        scores = group.scores
        spread = f" +- {np.std(scores, ddof=1):.4f}, {len(scores)} seeds" if len(scores) > 1 else ""
        start = "from scratch" if group.is_fresh else "from a base"
        lost = ", ".join(map(str, group.without_score))
        lost = f"; seeds without a score: {lost}" if lost else ""
        lines.append(f"  {group.name:<{width}}  {scores.mean():.4f}{spread}  ({start}{lost})")
    for d in differences:
        interval = f"[{d.low:+.4f}, {d.high:+.4f}]"
        lines.append(f"{d.group} - {d.other}: {d.difference:+.4f}, 95% {interval}: {d.verdict}")
    return lines
