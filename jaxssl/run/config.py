"""The configuration of a run: of pretraining, of fine-tuning, of a model that was imported.

One dataclass has all. The verbs differ in what they begin with where a recipe says nothing:
`PRETRAIN` and `FINETUNE` below.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxssl.checkpoint.ledger import InitConfig, split_checkpoint
from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.checkpoint.origin import find_origin, open_origin
from jaxssl.core import config as configuration
from jaxssl.core.bounds import check_at_least, check_local
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.precision import Precision
from jaxssl.core.ramp import Factor, Ramp
from jaxssl.core.registry import choice_name, members
from jaxssl.data.config import ImportedData, StoreConfig, TablesConfig
from jaxssl.data.mixture import ByTurns, Jointly
from jaxssl.models.heads import HEADS, Head
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.base import Objective
from jaxssl.objectives.combine import unite_heads
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.base import Optimizer
from jaxssl.optim.schedules import upgraded_schedule
from jaxssl.parallel.hosts import DistributedConfig
from jaxssl.parallel.mesh import MeshConfig
from jaxssl.run.plugins import check_plugins
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig
from jaxssl.train.settings import LoggingConfig, TrainConfig
from jaxssl.train.watchdog import WatchdogConfig
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.regularize import Regularization

Layer = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model that was trained elsewhere, as `jaxssl import` made a run directory of it."""

    source: str
    """Where it came from."""
    heads: tuple[str, ...] = ()
    """The language model heads that came with it."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network that an objective has beside the main one: a generator, a teacher."""

    model: ModelConfig | None = None
    """Its shape; null is that of what it starts from, or as its objective wants it."""
    init: InitConfig | None = None
    """What it starts from; null starts afresh."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One of several things that a run is trained on, side by side."""

    objective: Objective
    """What it is trained to do there: a self-supervised objective, a task, or several."""
    data: StoreConfig | TablesConfig | ImportedData
    """What it reads there."""
    weight: Factor = 1.0
    """Factor of its loss, or, by turns, its share of the steps: a number, or one that moves,
    {points: [[step, value], ...]}."""
    validation: str | None = "validation"
    """Split to validate on; null validates on none of it."""

    def __post_init__(self):
        if not isinstance(self.weight, Ramp):
            check_at_least(0, self, "weight")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run."""

    out: str
    """The run directory: configuration, checkpoints, metrics and report. Run again, it resumes."""
    imported: Imported | None = None
    """Of a model that was trained elsewhere; null for what is trained here."""
    init: InitConfig | None = None
    """What it goes on from; null starts afresh."""
    model: ModelConfig
    """The network; what is not given is as in the run it goes on from."""
    networks: dict[str, NetworkConfig] = field(default_factory=dict)
    """Where the networks that the objective has beside the main one start from, by their names:
    {teacher: {init: {from: RUN}}}."""
    tokenizer: str | None = None
    """Directory, .model file or name on the hub, for labelled data; null takes that of the run it
    goes on from. A token store brings its own."""
    objective: Objective | None = None
    """What it is trained to do: a self-supervised objective, a task with labels, or several. null
    for an imported model without a head that could be evaluated."""
    data: StoreConfig | TablesConfig | ImportedData | None = None
    """What it reads: `data.store` names a token store, `data.tables` labelled examples."""
    streams: dict[str, StreamConfig] = field(default_factory=dict)
    """In the place of `objective` and `data`: several of them, by names of your own. The epochs of
    the first one count, or of that which `train.epochs_of` names."""
    mixture: Jointly | ByTurns = Jointly()
    """How a run takes its streams: `jointly`, or `by_turns`."""
    freezing: Freezing = Freezing()
    """Which parameters are trained, and when."""
    regularization: Regularization = Regularization()
    """What holds trained parameters near those that were restored."""
    optimizer: Optimizer = AdamW()
    """How they are updated."""
    train: TrainConfig = TrainConfig()
    """How long, and what happens when a step goes wrong."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Validation during training."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """What is saved. What is frozen and lies in the run it goes on from is not."""
    precision: Precision = Precision()
    """Which dtype holds what."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    distributed: DistributedConfig = DistributedConfig()
    """How several processes find each other."""
    logging: LoggingConfig = LoggingConfig()
    """What is written down."""
    samples: SamplesConfig = SamplesConfig()
    """What the model is asked at each validation."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """When a step counts as hung."""
    profile: ProfileConfig = ProfileConfig()
    """Steps to trace."""

    def __post_init__(self):
        check_local(self, "out")
        self._check_streams()

    def _check_streams(self) -> None:
        alone = {"objective": self.objective, "data": self.data}
        given = [name for name, value in alone.items() if value is not None]
        missing = [name for name in alone if name not in given]
        if self.streams and given:
            raise UserError(
                "objective and data are given, and streams of them too",
                where=given[0],
                expected="either, or",
                got=f"{', '.join(given)} and streams {', '.join(self.streams)}",
                fix="put it into a stream: streams.NAME.objective, streams.NAME.data",
            )
        if not self.streams and missing and not (self.imported and missing == ["objective"]):
            raise UserError(
                configuration.MISSING,
                where=missing[0],
                expected="a mapping whose name is that of "
                + ("an objective or a task" if missing[0] == "objective" else "store or tables"),
                fix=f"give {missing[0]}.name=... on the command line or in a file",
            )
        wrong = [name for name in self.streams if not re.fullmatch(r"[A-Za-z][\w-]*", name)]
        if wrong or len(self.streams) == 1:
            raise UserError(
                "streams need names of letters, digits, - and _, and there are several"
                if wrong
                else "one stream alone is written as objective and data",
                where="streams",
                expected="two or more, such as {text: ..., labels: ...}",
                got=list(self.streams),
            )

        self._check_validation()
        counted = self.train.epochs_of
        if counted is not None and counted not in self.streams:
            raise UserError(
                "there is no such stream whose epochs could count",
                where="train.epochs_of",
                expected=" or ".join(self.streams) or "null, in a run without `streams`",
                got=counted,
                fix=did_you_mean(counted, self.streams),
            )

    def _check_validation(self) -> None:
        """Refuses what would be ignored where each stream says what it is validated on."""
        if not self.streams:
            return
        if self.evaluation.split != EvaluationConfig.split:
            raise UserError(
                "each stream says what it is validated on",
                where="evaluation.split",
                expected=f"{EvaluationConfig.split}, as it stands",
                got=self.evaluation.split,
                fix=f"set streams.{next(iter(self.streams))}.validation, and so on",
            )
        validated = [s for s in self.streams.values() if s.validation is not None]
        if self.evaluation.early_stopping is not None and not validated:
            raise UserError(
                "early stopping needs a validation split",
                where="streams.*.validation",
                expected="the name of a split, of one stream at least",
                got="null",
            )

    @property
    def all_streams(self) -> dict[str, StreamConfig]:
        """The streams by name; the only one's is empty."""
        if self.streams:
            return self.streams
        assert self.data is not None
        objective, validation = self.trained_objective, self.evaluation.split
        return {"": StreamConfig(objective=objective, data=self.data, validation=validation)}

    def with_streams(self, streams: Mapping[str, StreamConfig]) -> "RunConfig":
        """With other objectives in its streams."""
        if self.streams:
            return dataclasses.replace(self, streams=dict(streams))
        return dataclasses.replace(self, objective=streams[""].objective)

    @property
    def objectives(self) -> list[Objective]:
        """Those of all streams; none of an imported model that has nothing to be evaluated on."""
        if self.streams:
            return [stream.objective for stream in self.streams.values()]
        return [self.objective] if self.objective else []

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks of all streams, by name: the stream's, the term's, or the task's own."""
        found = {}
        for name, stream in (self.streams or {"": self}).items():
            objective = stream.objective
            for term, task in (objective.named_tasks if objective else {}).items():
                parts = [part for part in (name, term) if part]
                found["/".join(parts) or task.name] = task
        return found

    @property
    def labelled(self) -> StreamConfig | None:
        """The first stream with a task, and that task alone as its objective."""
        if not self.tasks:
            return None
        for stream in self.all_streams.values():
            for task in stream.objective.tasks:
                return dataclasses.replace(stream, objective=task)
        return None

    def with_data_seed(self, seed: int) -> "RunConfig":
        """With this seed of the order of all data."""

        def reseeded(data):
            return dataclasses.replace(data, seed=seed)

        streams = {
            name: dataclasses.replace(stream, data=reseeded(stream.data))
            for name, stream in self.streams.items()
        }
        data = None if self.data is None else reseeded(self.data)
        return dataclasses.replace(self, data=data, streams=streams)

    @property
    def is_fresh(self) -> bool:
        """Whether no parameter is restored."""
        return self.init is None or self.init.scratch

    @property
    def heads(self) -> tuple[Head, ...]:
        """The model's heads: those of its objective, and those it was imported with."""
        brought = [HEADS[name] for name in self.imported.heads] if self.imported else []
        own = [head for objective in self.objectives for head in objective.heads]
        return unite_heads([*brought, *own])

    @property
    def purpose(self) -> str:
        """What it was trained to do, in a word or two."""
        if self.imported is None:
            return " + ".join(objective.name for objective in self.objectives)
        heads = ", ".join(head.name for head in self.heads) or "no head"
        return f"imported from {self.imported.source}, with {heads}"

    @property
    def trained_objective(self) -> Objective:
        """The objective.

        Raises:
          UserError: there is none.
        """
        if self.objective is not None:
            return self.objective
        raise UserError(
            "this run has nothing that it could be trained or evaluated on",
            where=f"objective, {self.out}",
            expected="an objective or a task",
            got=f"{self.purpose}" if self.imported else "null",
            fix=f"train from it: init.from={self.out}" if self.imported else "give objective.name",
        )


PRETRAIN: Layer = {"objective": {}, "data": {"name": "store"}}
FINETUNE: Layer = {
    "objective": {"name": "classify"},
    "data": {"name": "tables"},
    "optimizer": {"name": "adamw", "learning_rate": 5e-5},
    "train": {"epochs": 3},
    "evaluation": {"every_epochs": 1},
    "checkpoint": {"keep_last": 1},
}
"""What the verbs begin with: a layer below all recipes."""
EITHER = (("train", ("steps", "epochs")), ("evaluation", ("every", "every_epochs")))
"""Keys of which one says what the other would: a recipe with one does without the verb's other."""


def load_config(
    recipes: Iterable[str | Path | Layer],
    overrides: Iterable[str] = (),
    defaults: Layer = PRETRAIN,
) -> RunConfig:
    """Recipes (later ones win) and `a.b=c` overrides as a validated configuration, over the model
    of the run that `init.from` names, if any, and over what the verb begins with.

    Args:
      recipes: files, names of recipes that come with jaxssl, or their content.
      defaults: `PRETRAIN` or `FINETUNE`.

    Raises:
      UserError: a mistake in them; `init.from` is no run.
    """
    contents = [
        x if isinstance(x, Mapping) else configuration.read_yaml(find_recipe(x)) for x in recipes
    ]
    layers = [upgraded(content) for content in contents]
    layers.append(upgraded(configuration.combine([], overrides)))
    given = configuration.combine(layers)
    below = configuration.combine([defaults, base_model(given), base_networks(given)])
    if given.get("streams"):
        below = {k: v for k, v in below.items() if k not in ("objective", "data")}
    for section, keys in EITHER:
        if any(key in (given.get(section) or {}) for key in keys):
            below[section] = {k: v for k, v in below.get(section, {}).items() if k not in keys}
    return configuration.load(RunConfig, [below, *layers])


def read_config(run_dir: Path, layers: Iterable[str] = ()) -> RunConfig:
    """The configuration in a run directory, with recipes and overrides on top.

    How the run's processes found each other is left out: it was true of its own cluster alone.

    Raises:
      UserError: it is not a run directory, or the command lacks plugins that it was trained with.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(
            "not a run directory",
            where=run_dir,
            expected="a directory with config.yaml, as pretrain, finetune and import make",
            got="no such directory" if not run_dir.is_dir() else "no config.yaml in it",
            fix=f"jaxssl import {run_dir} NEW_DIRECTORY"
            if find_origin(run_dir) is not None
            else "give the directory that `out` named when the run was trained",
        )
    check_plugins(run_dir)
    kept = {key: v for key, v in configuration.read_yaml(path).items() if key != "distributed"}
    given = list(layers)
    files = [configuration.read_yaml(find_recipe(layer)) for layer in given if "=" not in layer]
    changes = configuration.combine([], [layer for layer in given if "=" in layer])
    return configuration.load(
        RunConfig, [upgraded_run(kept), *(upgraded(x) for x in (*files, changes))]
    )


def upgraded_run(config: Layer) -> dict[str, Any]:
    """The whole configuration of a run as it is written now.

    Version 0.1 wrote fields of schedules that these never read; a recipe may not have them.
    """
    new = upgraded(config)
    optimizer = new.get("optimizer")
    if isinstance(optimizer, Mapping) and isinstance(optimizer.get("schedule"), Mapping):
        schedule = upgraded_schedule(optimizer["schedule"])
        new["optimizer"] = {**optimizer, "schedule": schedule}
    return new


def upgraded(layer: Layer) -> dict[str, Any]:
    """A layer as recipes are written now: `task` is another word for `objective`, and what `data`
    are is told by their keys. So are the run directories of version 0.1.

    Raises:
      UserError: it has both words.
    """
    new = dict(layer)
    if "task" in new:
        if "objective" in new:
            raise UserError(
                "a task and an objective in one",
                where="task, objective",
                expected="one of them, or objective.name=combine with both as terms",
                got="both",
            )
        new["objective"] = new.pop("task")
    if isinstance(new.get("imported"), str):
        new = _upgraded_import(new)
    if isinstance(new.get("streams"), Mapping):
        new["streams"] = {name: upgraded(stream) for name, stream in new["streams"].items()}
    data = new.get("data")
    if isinstance(data, Mapping) and "name" not in data:
        kinds = [kind for kind in ("store", "tables") if kind in data]
        new["data"] = {"name": kinds[0], **data} if len(kinds) == 1 else dict(data)
    return new


def _upgraded_import(layer: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model that version 0.1 imported."""
    heads = layer.pop("heads", [])
    layer["imported"] = {"source": layer["imported"], "heads": heads}
    layer["data"] = {"name": "imported", **layer.get("data", {})}
    if layer.get("objective") is None:
        layer["objective"] = imported_objective(heads)
    return layer


def imported_objective(heads: Iterable[str]) -> Layer | None:
    """What an imported model without a task is evaluated on: its language model's loss."""
    known = [name for name in ("masked_lm", "causal_lm") if name in heads]
    return {"name": known[0]} if known else None


def base_model(given: Layer) -> dict[str, Any]:
    """{"model": that of the run to start from, in one segment}; nothing without `init.from`.

    Of the plugins that it was trained with, the one that has its family is needed, if one has.

    Args:
      given: a configuration's layers, combined.

    Raises:
      UserError: `init.from` is no run, or its family is that of a plugin.
    """
    init = given.get("init")
    if not isinstance(init, Mapping) or not isinstance(init.get("from"), str):
        return {}
    run_dir, _ = split_checkpoint(init["from"])
    model = open_origin(run_dir).model(str(init.get("network") or ""))
    if model.get("name") not in map(choice_name, members(ModelConfig)):
        check_plugins(run_dir, registers=f"{ModelConfig.__name__} {model.get('name')}")
    return {"model": model}


def base_networks(given: Layer) -> dict[str, Any]:
    """{"networks": {name: `base_model` of it}} of those that say what they start from."""
    networks = given.get("networks")
    if not isinstance(networks, Mapping):
        return {}
    named = {name: each for name, each in networks.items() if isinstance(each, Mapping)}
    return {"networks": {name: base_model(each) for name, each in named.items()}}


def find_recipe(name: str | Path) -> Path:
    """A recipe's path: a file, or the name of one that comes with jaxssl (`pretrain/bert-tiny`).

    Raises:
      UserError: lists the recipes there are.
    """
    if Path(name).is_file():
        return Path(name)
    package = Path(__file__).parent.parent
    roots = [root for root in (package / "configs", package.parent / "configs") if root.is_dir()]
    known = {
        str(path.relative_to(root).with_suffix("")): path
        for root in roots
        for path in sorted(root.rglob("*.yaml"))
    }
    wanted = str(name).removesuffix(".yaml").removeprefix("configs/")
    if wanted in known:
        return known[wanted]
    fix = did_you_mean(wanted, known)
    if fix is None and "/" not in wanted and ("." in wanted or not wanted.strip("=")):
        fix = "a change is written key=value without spaces, such as train.steps=1000"
    raise UserError(
        "no such recipe",
        where=str(name),
        expected="a YAML file, or one of " + ", ".join(known),
        got=str(name),
        fix=fix or "name one of these, or give the path of a file that exists",
    )
