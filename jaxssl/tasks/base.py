"""The contract of a task: an objective with labels.

On the device it is an `Objective`: it scores hidden states against the labels of a batch. On the
host it reads tables into examples and turns predictions into the numbers that people report.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxssl.core.types import Batch, Params
from jaxssl.data.encoding import Truncation
from jaxssl.data.labelled import Examples
from jaxssl.data.tables import Table
from jaxssl.data.tokenizer import Tokenizer
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Objective


@dataclass(frozen=True, eq=False)
class Encoded:
    """A split, read and encoded.

    Attributes:
      examples: rows for the device.
      references: what predictions are scored against; the task knows its form.
      truncation: what was cut off.
    """

    examples: Examples
    references: Any
    truncation: Truncation


class Task(Objective, Protocol):
    """A frozen dataclass: an objective with these besides."""

    @property
    def metric(self) -> str:
        """The score that chooses the best checkpoint; higher is better."""
        ...

    @property
    def summary(self) -> str:
        """What is told of the labels at the start."""
        ...

    def fit_model(self, model: ModelConfig) -> ModelConfig:
        """The model without parts that the task would leave untrained."""
        ...

    def learn_labels(self, train: Table) -> "Task":
        """The task with the labels of the training split filled in. Raises UserError."""
        ...

    def encode(self, table: Table, tokenizer: Tokenizer, max_length: int, split: str) -> Encoded:
        """Reads a split. Raises UserError for what cannot be used, with its place."""
        ...

    def predict(
        self, model: Model, params: Params, hidden: jax.Array, batch: Batch
    ) -> dict[str, jax.Array]:
        """Arrays [B, ...] of one batch, in evaluation."""
        ...

    def scores(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, float]:
        """Numbers over a whole split; predictions are in the order of its examples."""
        ...
