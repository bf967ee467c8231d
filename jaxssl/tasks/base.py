"""The contract of a task: an objective with labels.

On the device it is an `Objective`: it scores hidden states against the labels of a batch. On the
host it reads tables into examples and turns predictions into the numbers that people report.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from jaxssl.core.types import Batch, Params, Vocabulary
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
      examples: rows for the device. An example of the table may be several rows (windows).
      references: one for each row, an array [N, ...] or a list: what its predictions are scored
        against and mapped back to the text with. The task knows its form.
      notes: what the user is told of the split.
      truncation: what was cut off, which the user is told too; None if that is in the notes.
    """

    examples: Examples
    references: Any
    notes: tuple[str, ...] = ()
    truncation: Truncation | None = None

    def told(self, max_length: int, split: str) -> tuple[str, ...]:
        """All that the user is told."""
        cut = None if self.truncation is None else self.truncation.warning(max_length, split)
        return self.notes if cut is None else (cut, *self.notes)


class AsRead:
    """What tasks inherit whose rows go into the model as they are read."""

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """Any model will do."""

    def check_rows(self, rows: Batch) -> None:
        """No row is refused."""

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Nothing is hidden."""
        return dict(batch)

    def details(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, Any]:
        """Nothing more than the scores."""
        return {}

    def identity(self, references: Any) -> list[Any]:
        """The label of each row."""
        return np.asarray(references).tolist()

    @property
    def has_classes(self) -> bool:
        """No: its labels are numbers, or several a row."""
        return False


class Task(Objective, Protocol):
    """A frozen dataclass: an objective with these besides."""

    @property
    def label(self) -> str:
        """The column of the labels, which every labelled split must have."""
        ...

    @property
    def has_classes(self) -> bool:
        """Whether each row of a table has one label of a few, which held-out rows are balanced
        by."""
        ...

    @property
    def text_column(self) -> str | None:
        """The column of the texts, where it needs no other to predict; else None."""
        ...

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

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Reads a split; without labels, to predict them, if not `labelled`.

        Raises:
          UserError: what cannot be used, with its place.
        """
        ...

    @property
    def reads(self) -> int | None:
        """How many hidden states of a row the head reads; None: each token's."""
        ...

    def head_inputs(self, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
        """Those, [B, reads, H], of hidden states [B, T, H]: a row of them alone, with one token for
        each, scores the same. Not called where it reads each token's."""
        ...

    def predict(
        self, model: Model, params: Params, hidden: jax.Array, batch: Batch
    ) -> dict[str, jax.Array]:
        """Arrays [B, ...] of one batch, in evaluation."""
        ...

    def scores(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, float]:
        """Numbers over a whole split; predictions and references are in the order of its rows."""
        ...

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """float64 [E, M]: what each example of the table adds to the sums that `metric` is of."""
        ...

    def identity(self, references: Any) -> list[Any]:
        """What is equal for two runs that are evaluated on the same examples, whatever their
        tokenizers."""
        ...

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """`metric` [...] of summed tallies [..., M]."""
        ...

    def details(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, Any]:
        """Tables for the report, where there are any: `per_class`, rows of equal keys, the first a
        name; `confusion`, {"labels": [K], "counts": [K, K]}, a row for each reference."""
        ...

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """What `jaxssl predict` writes for each example of the table, in its order: the same keys
        for each."""
        ...

    def blind(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Predictions for the rows of `references` that look at no text: the most frequent label
        of the references `train`, say. A run that is no better has collapsed."""
        ...
