"""The configuration of a run: of pretraining, of fine-tuning, of a model that was imported.

One dataclass has all. `recipes` makes one of files and overrides.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxssl.checkpoint.hf.sentence import SentenceConfig
from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core import config as configuration
from jaxssl.core.bounds import check_at_least, check_local
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.precision import Precision
from jaxssl.core.ramp import Factor, Ramp
from jaxssl.data.config import ImportedData, StoreConfig, TablesConfig
from jaxssl.data.mixture import ByTurns, Jointly
from jaxssl.models.heads import HEADS, Head
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.base import Objective
from jaxssl.objectives.union import unite_heads
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.base import Optimizer
from jaxssl.parallel.hosts import DistributedConfig
from jaxssl.parallel.mesh import MeshConfig
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig
from jaxssl.train.settings import LoggingConfig, TrainConfig
from jaxssl.train.watchdog import WatchdogConfig
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.regularize import Regularization


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model that was trained elsewhere, as `jaxssl import` made a run directory of it."""

    source: str
    """Where it came from."""
    heads: tuple[str, ...] = ()
    """The language model heads that came with it."""
    sentence: SentenceConfig | None = None
    """How it makes a vector of a text, if it came from sentence-transformers."""


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
    peft: dict[str, Method] = field(default_factory=dict)
    """Parameter-efficient methods, by names of your own: {news: {name: lora}}; {name: lora} alone
    is the adapter `default`. The model keeps its bits; adapters and new heads are trained."""
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
        self._check_adapters()

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

    def _check_adapters(self) -> None:
        """Refuses adapters without a name of letters, or beside parameters that are random."""
        for name in self.peft:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
                raise UserError(
                    "not a name of an adapter",
                    where="peft",
                    expected="letters, digits and -, a letter first",
                    got=repr(name),
                )
        if self.peft and self.is_fresh and self.imported is None:
            raise UserError(
                "adapters change a model that was trained, and this one starts from nothing",
                where="peft, init.from",
                expected="a run or a directory of a model to start from",
                got="none",
                fix="give init.from=RUN_OR_DIRECTORY",
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
    def taken(self) -> int:
        """Positions that adapters take."""
        return sum(method.lead + method.shift for method in self.peft.values())

    @property
    def chosen_by(self) -> str:
        """The number of a validation that chooses the best checkpoint: that of the first stream
        that is validated, unless `evaluation.best_by` names one."""
        if self.evaluation.best_by != "auto":
            return self.evaluation.best_by
        for name, stream in self.all_streams.items():
            if stream.objective is not None and stream.validation is not None:
                metric = stream.objective.metric
                return f"{name}/{metric}" if name else metric
        return "loss"

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
        return next(iter(self.all_labelled.values()), None)

    @property
    def all_labelled(self) -> dict[str, StreamConfig]:
        """The streams with a task, by name, and the first task of each alone as its objective."""
        if not self.tasks:
            return {}
        return {
            name: dataclasses.replace(stream, objective=stream.objective.tasks[0])
            for name, stream in self.all_streams.items()
            if stream.objective.tasks
        }

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
