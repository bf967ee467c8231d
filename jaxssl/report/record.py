"""Reads what a run directory holds. Nothing is invented: what is missing stays None.

Every file is optional, as long as there is one of them:

- `metrics.jsonl`: rows of kind train, validation, sample, fill_mask, note (`train.metrics_file`);
- `config.yaml`: the resolved configuration;
- `environment.json`: versions, devices, host (any nesting);
- `summary.json`: what only the trainer knows: `{"name", "model", "objective": text,
  "parameters": count, "unigram_entropy": nats per token, "steps", "tokens", "losses": {key:
  {"shown", "per_token", "sees_both_sides"}}, "mixture": {stream: its share of the steps}}`, each
  optional;
- `scores.json`, `receipt.json`, `ledger.json` of a fine-tuned run;
- `adaptation.json` of one that adapts another.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.core.config import parse_yaml
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import JsonObject, read_json, read_regular
from jaxssl.core.paths import looked_up, suggestion
from jaxssl.core.seal import check_seal
from jaxssl.report import files
from jaxssl.train.metrics_file import FILE_NAME, read_metrics


@dataclass(frozen=True)
class Series:
    """One recorded quantity: `values[i]` was recorded at `steps[i]`; steps never decrease."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float | None:
        return float(self.values[-1]) if len(self) else None


@dataclass(frozen=True)
class LossFacts:
    """What a report must know of a loss.

    Attributes:
      shown: its name for people.
      per_token: whether it is in nats per token.
      sees_both_sides: whether each token is guessed from both of its sides.
    """

    shown: str
    per_token: bool = False
    sees_both_sides: bool = False


OLD_LOSSES = {
    "loss/masked_lm": LossFacts("masked LM", True, True),
    "loss/causal_lm": LossFacts("causal LM", True),
    "loss/next_sentence": LossFacts("next sentence"),
}
"""Those of runs of version 0.1, whose summaries do not tell them."""


@dataclass(frozen=True)
class Run:
    """A run directory's content, with the few facts that a reader asks for first."""

    directory: Path
    rows: list[dict[str, Any]]
    config_text: str | None
    environment: dict[str, Any] | None
    summary: dict[str, Any]
    scores: dict[str, Any] | None = None
    receipt: dict[str, Any] | None = None
    ledger: dict[str, Any] | None = None
    adaptation: dict[str, Any] | None = None
    problems: tuple[str, ...] = field(default=())  # files that are there and cannot be read

    @cached_property
    def config(self) -> dict[str, Any]:
        try:
            config = parse_yaml(self.config_text or "", where="config.yaml")
        except UserError:
            return {}
        return config if isinstance(config, dict) else {}

    @cached_property
    def name(self) -> str:
        return str(self.summary.get("name") or self.directory.resolve().name)

    @cached_property
    def model(self) -> str | None:
        """The model's name and size, as the summary or else the configuration tells them."""
        if "model" in self.summary:
            return str(self.summary["model"])
        model = self.config.get("model")
        if not isinstance(model, dict):
            return None if model is None else str(model)
        sizes = (("num_layers", "layers"), ("hidden_size", "wide"), ("num_heads", "heads"))
        parts = [f"{model[key]} {word}" for key, word in sizes if key in model]
        return ", ".join([str(model.get("name", "model")), *parts])

    @cached_property
    def losses(self) -> dict[str, LossFacts]:
        """The losses that were recorded beside their sum, by their keys, in order."""
        recorded = self.summary.get("losses")
        recorded = recorded if isinstance(recorded, dict) else {}
        names = LossFacts.__dataclass_fields__
        known = {
            key: LossFacts(**{name: facts[name] for name in names if name in facts})
            for key, facts in recorded.items()
        }
        keys = [key for key in self.keys() if re.search(r"(^|/)loss/", key)]
        return {
            key: known.get(key) or OLD_LOSSES.get(key) or LossFacts(_words(key)) for key in keys
        }

    def shown_name(self, key: str) -> str:
        """What a number is of, for people: `accuracy/masked_lm` of masked LM."""
        kind, slash, name = key.partition("/")
        facts = self.losses.get(f"loss/{name}") if slash else None
        return facts.shown if facts else _words(name)

    @cached_property
    def objective(self) -> str | None:
        if "objective" in self.summary:
            return str(self.summary["objective"])
        if self.losses:
            return " + ".join(facts.shown for facts in self.losses.values())
        objective = self.config.get("objective")
        if isinstance(objective, dict):
            objective = objective.get("name")
        return None if objective is None else str(objective).replace("_", " ")

    @cached_property
    def steps(self) -> int | None:
        recorded = [row["step"] for row in self.rows if "step" in row]
        return max(recorded) if recorded else self.summary.get("steps")

    @cached_property
    def tokens(self) -> int | None:
        recorded = self.series("train", "tokens").last
        return self.summary.get("tokens") if recorded is None else int(recorded)

    @cached_property
    def parameters(self) -> int | None:
        return self.summary.get("parameters")

    @cached_property
    def unigram_entropy(self) -> float | None:
        return number(self.summary.get("unigram_entropy"))

    @cached_property
    def seconds(self) -> float | None:
        """The time in steps that the rows add up to, over all starts of the run."""
        step = self.series("train", "step_seconds")
        if not len(step):
            return None
        return float(np.nansum(np.diff(step.steps, prepend=0) * step.values))

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row.get("kind") == kind and "step" in row]

    @cached_property
    def columns(self) -> dict[tuple[str, str], Series]:
        """Every recorded number but the steps, by (kind, key); keys in order of appearance."""
        found: dict[tuple[str, str], tuple[list[int], list[float]]] = {}
        for kind in ("train", "validation"):
            for row in self.of_kind(kind):
                for key, value in row.items():
                    if key != "step" and number(value) is not None:
                        steps, values = found.setdefault((kind, key), ([], []))
                        steps.append(row["step"])
                        values.append(value)
        return {where: _by_step(*content) for where, content in found.items()}

    def keys(self) -> list[str]:
        """Every numeric key of the train and validation rows, in order of appearance."""
        return list(dict.fromkeys(key for _, key in self.columns))

    def series(self, kind: str, key: str) -> Series:
        """The values of `key` in the rows of `kind`, by step; empty where there are none."""
        return self.columns.get((kind, key)) or _by_step([], [])

    def final(self, key: str) -> float | None:
        """The last recorded validation value of `key`."""
        return self.series("validation", key).last


def read_run(run_dir: str | Path) -> Run:
    """Reads a run directory.

    Raises:
      UserError: there is no such directory, or it holds no run, or metrics.jsonl is damaged.
    """
    directory = Path(run_dir)
    names = (FILE_NAME, "config.yaml", "environment.json", "summary.json")
    if not any((directory / name).is_file() for name in names):
        raise UserError(
            "not a run directory",
            where=directory,
            expected=f"a directory with {FILE_NAME} or config.yaml, made by jaxssl pretrain",
            got="a directory without them" if directory.is_dir() else looked_up(directory),
            fix=suggestion(directory) or "give the run's directory (the configuration's `out`)",
        )
    problems: list[str] = []
    try:
        check_seal(directory)
    except UserError as error:
        problems.append(f"{error.what}: {error.where} ({error.got}).")
    summary = _read(directory / "summary.json", files.Summary, problems)
    return Run(
        directory=directory,
        rows=read_metrics(directory),
        config_text=_text(directory / "config.yaml", problems),
        environment=_read(directory / "environment.json", JsonObject, problems),
        summary=summary or {},
        scores=_read(directory / "scores.json", files.Scores, problems, files.check_scores),
        receipt=_read(directory / "receipt.json", files.Receipt, problems),
        ledger=_read(directory / "ledger.json", files.Ledger, problems, files.check_ledger),
        adaptation=_read(directory / "adaptation.json", files.Adaptation, problems),
        problems=tuple(problems),
    )


def read_runs(run_dirs: Sequence[str | Path]) -> list[Run]:
    """Reads several run directories; at least one."""
    if not run_dirs:
        raise UserError("No run was given to compare.", expected="one or more run directories")
    return [read_run(run_dir) for run_dir in run_dirs]


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names, longer where two are the same: with their directory, or numbered."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{run.directory.resolve().parent.name}/{run.name}" for run in runs]
    if len(set(names)) < len(names):
        names = [f"{name} ({index})" for index, name in enumerate(names, start=1)]
    return names


def _words(key: str) -> str:
    """A key's last part as words, after its stream's."""
    return key.replace("loss/", "").replace("/", ", ").replace("_", " ")


def number(value: Any) -> float | None:
    """`value` as a float if it is a number (not a bool), else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _by_step(steps: list[int], values: list[float]) -> Series:
    order = np.argsort(np.array(steps, np.int64), kind="stable")
    return Series(np.array(steps, np.int64)[order], np.array(values, np.float64)[order])


def _read(
    path: Path, kind: Any, problems: list[str], check: Callable[[Any], None] = lambda content: None
) -> Any:
    """The content of a JSON file, or None: a file that cannot be shown is a problem to tell."""
    if not os.path.lexists(path):
        return None
    try:
        content = read_json(path, kind, what=f"{path.name} cannot be read", fix="")
        check(content)
        return content
    except UserError as error:
        got = " ".join(str(error.got).split())
        problems.append(f"{error.what} (expected {error.expected}, got {got}); it is left out.")
        return None


def _text(path: Path, problems: list[str]) -> str | None:
    if not os.path.lexists(path):
        return None
    try:
        data = read_regular(path, what=f"{path.name} cannot be read", fix="")
    except UserError as error:
        problems.append(f"{error.what} ({error.got}); it is left out.")
        return None
    return data.decode("utf-8", "replace")
