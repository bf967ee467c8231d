"""Every way of fine-tuning, as it is by default, on data of your own: whole runs with several seeds
each, and a table of their scores.

    python -m benchmarks.methods recipe.yaml init.from=MODEL --out runs/methods --seeds 3

A run that has ended is not trained again: the command goes on where it was stopped.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAIRED = ("head", "lora")
"""Those that `--paired` trains with as many seeds as full fine-tuning."""
METHODS: dict[str, tuple[str, ...]] = {
    "full": (),
    "head": ("freezing.preset=head",),
    "head, 1e-2": ("freezing.preset=head", "optimizer.learning_rate=1e-2"),
    "lora": ("peft.name=lora",),
    "lora, all-linear": ("peft.name=lora", "peft.targets=[all-linear]"),
    "dora": ("peft.name=lora", "peft.magnitude=true"),
    "bottleneck": ("peft.name=bottleneck",),
    "bottleneck, pfeiffer": ("peft.name=bottleneck", "peft.after=[feed_forward]"),
    "bottleneck, parallel": ("peft.name=bottleneck", "peft.place=parallel", "peft.scale=4"),
    "compacter": ("peft.name=compacter",),
    "prefix": ("peft.name=prefix",),
    "prefix, mlp": ("peft.name=prefix", "peft.projection_size=128"),
    "prompt": ("peft.name=prompt",),
    "prompt, p-tuning": ("peft.name=prompt", "peft.encoder=mlp"),
    "ia3": ("peft.name=ia3",),
    "bitfit": ("peft.name=bitfit",),
    "norms": ("peft.name=norms",),
}
"""What each changes in the recipe."""


@dataclass(frozen=True)
class Ended:
    """What one run gave."""

    split: str  # that is scored: test, or validation where there is no test split
    score: float  # by the metric that chooses the best checkpoint
    trained: int  # parameters
    step: float  # seconds, the median
    memory: int  # bytes, of the compiled step


def main() -> None:
    """Trains what is missing, seed by seed, and prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("recipe", nargs="+", help="as for jaxssl finetune")
    parser.add_argument("--out", required=True, type=Path, help="where the runs are")
    parser.add_argument("--seeds", type=int, default=3, help="of each method (3)")
    parser.add_argument(
        "--paired", type=int, help="of full, head and lora, where these are to be more"
    )
    parser.add_argument("--only", nargs="+", choices=list(METHODS), metavar="METHOD")
    options = parser.parse_args()
    if min(options.seeds, options.paired or 1) < 1:
        parser.error("--seeds and --paired: 1 or more")
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = list(options.only or METHODS)
    seeds = {name: options.seeds for name in wanted}
    for name in {"full", *PAIRED} & {*wanted}:
        seeds[name] = max(options.paired or 0, options.seeds)
    for seed in range(max(seeds.values())):
        for name in (name for name in wanted if seed < seeds[name]):
            _train(options.recipe, name, seed, options.out)
    show(
        {name: [ended(_place(options.out, name, s)) for s in range(seeds[name])] for name in wanted}
    )


def show(found: dict[str, Sequence[Ended]]) -> None:
    """Prints a row for each method; its difference from full fine-tuning seed by seed."""
    full = found.get("full", ())
    splits = sorted({run.split for runs in found.values() for run in runs})
    print(f"scores of the {' and the '.join(splits)} split")
    columns = f"{'score':>8}{'deviation':>11}{'seeds':>7}{'from full':>11}{'trained':>10}"
    print(f"{'method':<24}{columns}{'of full':>9}{'step ms':>9}{'of full':>9}{'MiB':>7}")
    for name, runs in found.items():
        scores = [run.score for run in runs]
        deviation = f"{statistics.stdev(scores):.4f}" if len(runs) > 1 else ""
        row = f"{statistics.mean(scores):>8.4f}{deviation:>11}{len(runs):>7}"
        step = statistics.median(run.step for run in runs)
        beside = ["", "", ""]
        if full:
            each = [run.score - other.score for run, other in zip(runs, full)]
            of_full = step / statistics.median(run.step for run in full)
            share = runs[0].trained / full[0].trained
            beside = [f"{statistics.mean(each):+.4f}", f"{share:.2%}", f"{of_full:.2f}"]
        row += f"{beside[0]:>11}{runs[0].trained:>10,}{beside[1]:>9}{1e3 * step:>9.0f}"
        print(f"{name:<24}{row}{beside[2]:>9}{runs[0].memory / 2**20:>7.0f}")


def ended(run: Path) -> Ended:
    """What the run's files say."""
    scores = json.loads((run / "scores.json").read_text())
    receipt = json.loads((run / "receipt.json").read_text())["own"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step_seconds"] for line in lines if line["kind"] == "train"]
    split = "test" if "test" in scores["splits"] else "validation"
    score = scores["splits"][split]["scores"][scores["metric"]]
    return Ended(
        split, score, receipt["trained"], statistics.median(steps), receipt["memory_bytes"]
    )


def _place(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(', ', '-')}-{seed}"


def _train(recipe: Sequence[str], name: str, seed: int, out: Path) -> None:
    run = _place(out, name, seed)
    noted = run.with_name(f"{run.name}.json")
    if (run / "report.html").exists():  # the last file of a run
        if noted.exists() and json.loads(noted.read_text()) != list(recipe):
            sys.exit(f"error: {run} was trained by {noted.read_text()}, not {list(recipe)}")
        return
    shutil.rmtree(run, ignore_errors=True)
    noted.write_text(json.dumps(list(recipe)))
    changes = [*METHODS[name], f"train.seed={seed}", f"data.seed={seed}", f"out={run}"]
    command = [sys.executable, "-m", "jaxssl", "finetune", *recipe, *changes]
    told = subprocess.run(command, env={**os.environ}, capture_output=True, text=True)
    if told.returncode:
        sys.exit(f"{' '.join(command)}\n{told.stdout}{told.stderr}")
    print(f"{name}, seed {seed}: {ended(run).score:.4f}", flush=True)


if __name__ == "__main__":
    main()
