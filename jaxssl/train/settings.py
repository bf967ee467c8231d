"""What the training loop is given: its configuration, and the parts of a run."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, Protocol

import optax
from jax.sharding import Mesh

from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core.bounds import check_above_zero, check_at_least, check_seed
from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary
from jaxssl.data.loader import Data
from jaxssl.data.tokenizer import Tokenizer
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig
from jaxssl.train.state import Choice, everything
from jaxssl.train.watchdog import WatchdogConfig
from jaxssl.transfer.regularize import NONE, Regularization
from jaxssl.transfer.start import Start


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, and what to do when a step goes wrong."""

    steps: int = 1000
    """Optimizer steps in all."""
    epochs: float | None = None
    """Passes over the training data; if given, it decides `steps`."""
    seed: int = 0
    """Of initialisation, masks and dropout; 0 to 2**32 - 1."""
    accumulation: int = 1
    """Microbatches a step: the batch is worked off in so many parts."""
    ema: float | None = None
    """Decay of an exponential moving average of the parameters, 0.999 say, which validation and
    later use take in their place; null keeps none."""
    not_finite: Literal["skip", "abort", "rollback"] = "abort"
    """When loss or gradient is not finite (the update is left out in any case): go on, save and
    stop with exit code 3, or go back to the last checkpoint and leave out the batches since."""
    not_finite_limit: int = 10
    """With `skip` and `rollback`: stop after so many in all."""

    def __post_init__(self):
        check_at_least(1, self, "steps", "accumulation", "not_finite_limit")
        if self.epochs is not None:
            check_above_zero(self, "epochs")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UserError(
                "a decay is out of range",
                where="ema",
                expected="at least 0 and below 1",
                got=self.ema,
            )
        check_seed(self)


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What is written down as training goes on."""

    every: int = 10
    """Steps between rows of metrics."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run directory."""
    wandb_project: str | None = None
    """Also log to this Weights & Biases project (pip install 'jaxssl[wandb]')."""
    progress: bool = True
    """Show a progress bar."""

    def __post_init__(self):
        check_at_least(1, self, "every")


class Batching(Protocol):
    """What the loop reads of the configuration of data."""

    @property
    def batch_size(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def prefetch(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parts of a run's configuration that the loop reads."""

    data: Batching
    train: TrainConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig
    samples: SamplesConfig
    watchdog: WatchdogConfig
    profile: ProfileConfig


@dataclass(frozen=True, eq=False)
class Stage:
    """Which parameters are trained, from a step on.

    Attributes:
      first_step: batches taken before it begins.
      is_trained: by path; the others are frozen.
    """

    first_step: int = 0
    is_trained: Choice = everything


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything a run is made of, built and checked."""

    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    vocabulary: Vocabulary
    tokenizer: Tokenizer
    train_data: Data
    validation_data: Data | None
    tokens_per_byte: float | None
    """Of the validation split."""
    mesh: Mesh
    start: Start = Start()
    """Where the first parameters come from."""
    stages: tuple[Stage, ...] = (Stage(),)
    """What is trained when; each stage trains all that the one before it did."""
    regularization: Regularization = NONE
    """What holds parameters near their start."""
    encodes_once: bool = False
    """Whether each example is encoded once, since nothing below the heads is trained."""
    metric: str = "loss"
    """What chooses the best checkpoint, where the configuration leaves it to the objective."""


def resolved(
    train: TrainConfig, evaluation: EvaluationConfig, per_epoch: int
) -> tuple[TrainConfig, EvaluationConfig]:
    """Both with epochs turned into steps.

    Args:
      per_epoch: batches of an epoch.
    """
    if train.epochs is not None:
        steps = max(1, math.ceil(train.epochs * per_epoch))
        train = dataclasses.replace(train, steps=steps)
    if evaluation.every_epochs is not None:
        every = max(1, round(evaluation.every_epochs * per_epoch))
        evaluation = dataclasses.replace(evaluation, every=every)
    return train, evaluation
