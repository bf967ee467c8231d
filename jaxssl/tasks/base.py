"""The contract of a task: an objective with labels.

On the device it is an `Objective`: it scores hidden states against the labels of a batch. On the
host it reads tables into examples and turns predictions into the numbers that people report.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.data.encoding import Truncation
from jaxssl.data.examples import Examples
from jaxssl.data.tables.cells import is_missing
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.model import Model
from jaxssl.objectives.base import Objective, Outputs
from jaxssl.scores.base import Score


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

    def warnings(self, max_length: int, split: str) -> tuple[str, ...]:
        """The notes, and what was cut off."""
        cut = None if self.truncation is None else self.truncation.warning(max_length, split)
        return self.notes if cut is None else (cut, *self.notes)


@dataclass(frozen=True, kw_only=True)
class Task(Objective):
    """A frozen dataclass: an objective with labels, and what reads and scores them."""

    on_corrupted: bool = False
    """Beside an objective that changes the text, as masking does: train on the changed text too,
    not on the text as it is. Validation always reads it as it is."""
    extra_scores: tuple[Score, ...] = ()
    """Scores besides the task's own, which may choose the best checkpoint, too."""
    head: str | None = None
    """Name of its head; null is the task's. Two tasks of one kind in a run need a name for each,
    unless they are to share one."""

    def __post_init__(self):
        if self.head is not None and not re.fullmatch(r"[A-Za-z][\w-]*", self.head):
            raise UserError(
                "not a name of a head",
                where="head",
                expected="letters, digits, - and _, a letter first",
                got=repr(self.head),
            )
        names = [score.name for score in self.extra_scores]
        if len(set(names)) < len(names):
            raise UserError(
                "a score is there twice",
                where="extra_scores",
                expected="each once",
                got=", ".join(names),
            )
        for score in self.extra_scores:
            score.check(self)

    @property
    def head_name(self) -> str:
        """What its head's parameters lie under."""
        return self.head or self.name

    @property
    def named_tasks(self) -> Mapping[str, "Task"]:
        """It is one, alone."""
        return {"": self}

    def sees_corrupted(self, training: bool) -> bool:
        """If it is told to, in training."""
        return training and self.on_corrupted

    @property
    @abstractmethod
    def label(self) -> str | None:
        """The column of the labels, which every labelled split must have; None for none."""

    @property
    def writes(self) -> bool:
        """Whether predictions are texts that it writes token by token, which takes long."""
        return False

    @property
    def has_classes(self) -> bool:
        """Whether each row of a table has one label of a few, which held-out rows are balanced
        by."""
        return False

    @property
    def text_column(self) -> str | None:
        """The column of the texts, where it needs no other to predict; else None."""
        return None

    @property
    def text_columns(self) -> Mapping[str, str]:
        """The columns that each row needs a text in to be predicted, by the keys that name them."""
        return {} if self.text_column is None else {"task.text": self.text_column}

    def needed_columns(self, labelled: bool) -> Mapping[str, str]:
        """All columns that a table must have, by the keys that name them; to predict, not
        `labelled`, it needs no label."""
        label = {"task.label": self.label} if labelled and self.label is not None else {}
        return {**self.text_columns, **label}

    def has_text(self, value: Any) -> bool:
        """Whether a value of one of these is some text: other rows are not predicted."""
        return not is_missing(value)

    @property
    @abstractmethod
    def metric(self) -> str:
        """The score that chooses the best checkpoint; higher is better."""

    @property
    @abstractmethod
    def about(self) -> str:
        """What a run says of the labels at its start."""

    def learn_labels(self, train: Table) -> "Task":
        """The task with the labels of the training split filled in. Raises UserError."""
        return self

    def prepared(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer as a run keeps it, with what the task adds to its files. No text is read
        otherwise. Raises UserError."""
        return tokenizer

    @abstractmethod
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

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of rows."""
        return {name: jnp.sum(batch["example_weights"]) for name in self.losses}

    @property
    def states_read(self) -> int | None:
        """How many hidden states of a row the head reads; None: each token's."""
        return None

    def head_inputs(self, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
        """Those, [B, states_read, H], of hidden states [B, T, H]: a row of them alone, with one
        token for each, scores the same. Not called where each token's is read."""
        return hidden

    @abstractmethod
    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """Arrays [B, ...] of one batch, in evaluation."""

    @abstractmethod
    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """Numbers over a whole split; predictions and references are in the order of its rows."""

    def scores(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, float]:
        """The task's own, and those of `extra_scores`: each NAME, or NAME/part.

        Raises:
          UserError: one of these has the name of one of the task's own.
        """
        found = self.own_scores(predictions, references)
        for score in self.extra_scores:
            if score.name in found:
                raise UserError(
                    "a score has the name of one of the task's own",
                    where="extra_scores",
                    expected="another name than " + ", ".join(found),
                    got=score.name,
                )
            found |= score.named_numbers(predictions, references)
        return found

    def is_lower_better(self, number: str) -> bool:
        """As the score has it that the number is of."""
        for score in self.extra_scores:
            if score.name == number.split("/")[0]:
                return score.lower_is_better
        return super().is_lower_better(number)

    @abstractmethod
    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """float64 [E, M]: what each example of the table adds to the sums that `metric` is of."""

    @abstractmethod
    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """`metric` [...] of summed tallies [..., M]."""

    def identity(self, references: Any) -> list[Any]:
        """What is equal for two runs that are evaluated on the same examples, whatever their
        tokenizers."""
        return np.asarray(references).tolist()

    def details(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, Any]:
        """Tables for the report, where there are any: `per_class`, rows of equal keys, the first a
        name; `confusion`, {"labels": [K], "counts": [K, K]}, a row for each reference."""
        return {}

    @abstractmethod
    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """What `jaxssl predict` writes for each example of the table, in its order: the same keys
        for each."""

    @abstractmethod
    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Predictions for the rows of `references` that look at no text: the most frequent label
        of the references `train`, say. A run that is no better has collapsed."""

    def baseline_scores(self, train: Any, references: Any) -> dict[str, float]:
        """Those of `majority_baseline`."""
        return self.scores(self.majority_baseline(train, references), references)
