"""How long a run trains, and what it writes down: the parts of a configuration the loop reads."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from jaxssl.checkpoint.manager import CheckpointConfig
from jaxssl.core.bounds import check_above_zero, check_at_least, check_seed, check_unused
from jaxssl.core.errors import UserError
from jaxssl.train.evaluation import EvaluationConfig
from jaxssl.train.profile import ProfileConfig
from jaxssl.train.samples import SamplesConfig
from jaxssl.train.watchdog import WatchdogConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, and what to do when a step goes wrong."""

    steps: int = 1000
    """Optimizer steps in all."""
    epochs: float | None = None
    """Passes over the training data; if given, it decides `steps`."""
    epochs_of: str | None = None
    """The stream whose passes over its data `epochs` and `evaluation.every_epochs` count, of a run
    with `streams`; null is the first."""
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
        if self.not_finite == "abort":
            fix = "set not_finite to skip or rollback, or leave out not_finite_limit"
            check_unused(self, ["not_finite_limit"], where="with not_finite=abort", fix=fix)


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
    compare_full: bool = True
    """Of a partly frozen run, compile the step of full training too when it begins, to tell what
    freezing saves."""

    def __post_init__(self):
        check_at_least(1, self, "every")


class Settings(Protocol):
    """What the loop reads of a run's configuration, with epochs turned into steps."""

    @property
    def train(self) -> TrainConfig: ...
    @property
    def evaluation(self) -> EvaluationConfig: ...
    @property
    def checkpoint(self) -> CheckpointConfig: ...
    @property
    def logging(self) -> LoggingConfig: ...
    @property
    def samples(self) -> SamplesConfig: ...
    @property
    def watchdog(self) -> WatchdogConfig: ...
    @property
    def profile(self) -> ProfileConfig: ...


@dataclass(frozen=True)
class Epochs:
    """What an epoch is in steps.

    Attributes:
      per_epoch: batches of the stream whose epochs count.
      steps_until: how many steps it takes until that stream had so many batches.
    """

    per_epoch: int
    steps_until: Callable[[int], int]

    def steps(self, epochs: float) -> int:
        """The steps nearest to so many epochs, at least one."""
        return max(1, self.steps_until(round(epochs * self.per_epoch)))

    def resolve(
        self, train: TrainConfig, evaluation: EvaluationConfig
    ) -> tuple[TrainConfig, EvaluationConfig]:
        """Both with epochs turned into steps; those of the run are rounded up."""
        if train.epochs is not None:
            steps = self.steps_until(math.ceil(train.epochs * self.per_epoch))
            train = dataclasses.replace(train, steps=max(1, steps))
        if evaluation.every_epochs is not None:
            every = self.steps(evaluation.every_epochs)
            evaluation = dataclasses.replace(evaluation, every=every)
        return train, evaluation
