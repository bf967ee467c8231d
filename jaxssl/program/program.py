"""What a run computes, without its data: everything that decides its compiled steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from jaxssl.core.ramp import Factor
from jaxssl.core.types import Vocabulary
from jaxssl.data.mixture import AllAtOnce, Draws
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective
from jaxssl.parallel.compiler import Options
from jaxssl.program.state import Choice, everything
from jaxssl.transfer.regularize import NONE, Regularization
from jaxssl.transfer.start import Start


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
class Stream:
    """One objective and the shape of the batches that it is trained on.

    Attributes:
      name: empty where it is the only one.
      batch: shapes and dtypes of the largest batch, by entry.
      weight: of its loss in a step that takes batches of several streams.
    """

    name: str = ""
    objective: Objective
    batch: Mapping[str, jax.ShapeDtypeStruct]
    weight: Factor = 1.0

    @classmethod
    def of(cls, objective: Objective, batch: Mapping[str, Any], **more: Any) -> "Stream":
        """One whose largest batch is of the shapes of `batch`."""
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
        return cls(objective=objective, batch=shapes, **more)


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """The steps of a run, before they are compiled: no data and no tokenizer.

    Attributes:
      stages: what is trained when; each trains all that the one before it did.
      start: where the first parameters come from.
      regularization: what holds parameters near their start.
      seed: of initialisation, masks and dropout.
      accumulation: microbatches a step.
      gathers_once: they share parameters that are gathered, and gradients that are summed over
        devices, once.
      ema: decay of an average of the parameters; None keeps none.
      draws: which streams a batch number takes.
      compiler: options of the XLA compiler for the training step.
      is_offloaded: the optimizer's state lies in the memory of the hosts.
      reached: {stream: the parameters that its losses depend on}, where steps differ in that; the
        others rest in a step.
    """

    model: Model
    streams: tuple[Stream, ...]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    vocabulary: Vocabulary
    mesh: Mesh
    start: Start = Start()
    stages: tuple[Stage, ...] = (Stage(),)
    regularization: Regularization = NONE
    seed: int = 0
    accumulation: int = 1
    gathers_once: bool = False
    ema: float | None = None
    draws: Draws = AllAtOnce(("",))
    reached: Mapping[str, frozenset[str]] | None = None
    compiler: Options = ()
    is_offloaded: bool = False

    def is_reached(self, drawn: tuple[str, ...]) -> Choice:
        """Which parameters the losses of these streams depend on, by path."""
        if self.reached is None:
            return everything
        return frozenset().union(*(self.reached[name] for name in drawn)).__contains__

    def is_lower_better(self, number: str) -> bool:
        """Whether less is better of a number of a validation."""
        for stream in self.streams:
            if not stream.name:
                return stream.objective.is_lower_better(number)
            if number.startswith(f"{stream.name}/"):
                return stream.objective.is_lower_better(number.removeprefix(f"{stream.name}/"))
        return False
