"""The configuration of a fine-tuning run: what `run.RunConfig` is to pretraining."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.checkpoint.ledger import InitConfig
from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core import config as configuration
from jaxssl.core.bounds import check_at_least, check_local, check_seed
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.precision import Precision
from jaxssl.data.labelled import LabelledData, row_lengths
from jaxssl.data.tables import LabelledData as LabelledTables
from jaxssl.data.tables import Note, Table, read_splits, say
from jaxssl.data.tokenizer import Tokenizer
from jaxssl.models.model import ModelConfig
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.registry import OptimizerConfig
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig
from jaxssl.run import base_model, find_recipe
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.registry import TaskConfig
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig
from jaxssl.train.settings import LoggingConfig, TrainConfig
from jaxssl.train.watchdog import WatchdogConfig
from jaxssl.transfer.freezing import Freezing
from jaxssl.transfer.regularize import Regularization


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """What is learnt from, and how it is batched."""

    tables: LabelledTables
    """Where the examples come from."""
    max_length: int = 128
    """Longest row, in tokens. What is longer loses its end, or is read in windows, as the task
    has it; both are said."""
    batch_size: int = 32
    """Examples a step, over all hosts and devices."""
    row_lengths: int = 4
    """Into how many lengths rows are padded; each is compiled once."""
    seed: int = 0
    """Of the order of the examples."""
    prefetch: int = 4
    """Batches that are read ahead."""

    def __post_init__(self):
        check_at_least(1, self, "max_length", "batch_size", "row_lengths")
        check_at_least(0, self, "prefetch")
        check_seed(self)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides a run."""

    out: str
    """The run directory. Run again, it resumes."""
    init: InitConfig | None = None
    """What to start from; null starts fresh, with `model` and `tokenizer` given."""
    model: ModelConfig
    """The network; what is not given is as in the run it starts from."""
    tokenizer: str | None = None
    """Directory, .model file or name on the hub; null takes that of the run it starts from."""
    task: TaskConfig = Classify()
    """What is to be learnt."""
    data: LabelledConfig
    """From what."""
    freezing: Freezing = Freezing()
    """Which parameters are trained, and when."""
    regularization: Regularization = Regularization()
    """What holds trained parameters near those that were restored."""
    optimizer: OptimizerConfig = AdamW(learning_rate=5e-5)
    """How they are updated."""
    train: TrainConfig = TrainConfig(epochs=3)
    """How long, and what happens when a step goes wrong."""
    evaluation: EvaluationConfig = EvaluationConfig(every_epochs=1)
    """Validation during training."""
    checkpoint: CheckpointConfig = CheckpointConfig(keep_last=1)
    """What is saved. What is frozen is not."""
    precision: Precision = Precision()
    """Which dtype holds what."""
    mesh: MeshConfig = MeshConfig()
    """How devices are arranged."""
    distributed: hosts.DistributedConfig = hosts.DistributedConfig()
    """How several processes find each other."""
    logging: LoggingConfig = LoggingConfig()
    """What is written down."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """When a step counts as hung."""
    profile: ProfileConfig = ProfileConfig()
    """Steps to trace."""

    def __post_init__(self):
        check_local(self, "out")

    @property
    def is_fresh(self) -> bool:
        """Whether no parameter is restored."""
        return self.init is None or self.init.scratch

    @property
    def samples(self) -> SamplesConfig:
        """None: a task has nothing to continue or fill."""
        return SamplesConfig()

    @property
    def objective(self) -> TaskConfig:
        """The task, as what is trained."""
        return self.task


def load_config(recipes: Iterable[str | Path], overrides: Iterable[str] = ()) -> FinetuneConfig:
    """Recipes and overrides as a validated configuration, over the base's model.

    Raises:
      UserError: a mistake in them; `init.from` is no run.
    """
    layers = [configuration.read_yaml(find_recipe(recipe)) for recipe in recipes]
    overrides = list(overrides)
    given = configuration.combine(layers, overrides)
    below = base_model(given)
    for section, keys, default in (
        ("train", {"steps", "epochs"}, {"epochs": 3}),
        ("evaluation", {"every", "every_epochs"}, {"every_epochs": 1}),
    ):
        if not keys & set(given.get(section) or {}):
            below[section] = default
    return configuration.load(FinetuneConfig, [below, *layers], overrides)


def read_labelled(config: FinetuneConfig, note: Note = say) -> dict[str, Table]:
    """The splits of a run's labelled data; see `read_splits`."""
    task = config.task
    return read_splits(
        config.data.tables, task.label, note, key="task.label", has_classes=task.has_classes
    )


def read_split(config: FinetuneConfig, tokenizer: Tokenizer, split: str) -> LabelledData:
    """A split of a run's labelled data; the task has its labels already.

    Raises:
      UserError: no such split, or labels that the run does not know.
    """
    tables = read_labelled(config, lambda text: None)
    if split not in tables:
        raise UserError(
            "there is no such split",
            where="split",
            expected="one of " + ", ".join(tables),
            got=split,
            fix=did_you_mean(split, tables),
        )
    encoded = config.task.encode(tables[split], tokenizer, config.data.max_length, split)
    return as_data(encoded, row_lengths(encoded.examples.lengths, config.data.row_lengths))


def as_data(encoded: Encoded, edges: Any) -> LabelledData:
    """A split as data for the loop; rows longer than any seen in training get a length more."""
    longest = row_lengths(encoded.examples.lengths, 1)[-1]
    if longest > edges[-1]:
        edges = [*edges, longest]
    return LabelledData(encoded.examples, np.asarray(edges), encoded.references)
