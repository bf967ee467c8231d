"""Classification of one text or a pair: one label of several, or any number of them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jaxssl.core.bounds import check_unused
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.data.tables.table import Table
from jaxssl.models.model import Model
from jaxssl.objectives.base import Outputs, Sums
from jaxssl.scores import tallies
from jaxssl.tasks import labels as row_labels
from jaxssl.tasks.label_loss import LabelLoss
from jaxssl.tasks.label_notes import label_notes, list_labels, regress_hint
from jaxssl.tasks.pooled import PooledTask


@dataclass(frozen=True, kw_only=True)
class Classify(PooledTask, LabelLoss):
    """Tell which label a text, or a pair of texts, has."""

    name: Literal["classify"] = "classify"
    """The task."""
    label: str = "label"
    """Column of the label; of several, a list (in CSV as text: ["a", "b"]) or a string with
    `separator`, empty for none."""
    labels: tuple[str, ...] = ()
    """The labels in the order of their numbers; empty takes those of the training split, sorted."""
    multi_label: bool = False
    """A row may have any number of labels, none too."""
    multi_hot: bool | None = None
    """Of several labels: a row is a list with 0 or 1 for each label, in the order of `labels`, and
    does not name them. null finds out in the training split."""
    separator: str = ","
    """Between several labels in a string."""

    def __post_init__(self):
        super().__post_init__()
        if self.multi_label and self.class_weights != "none":
            raise UserError(
                "labels that are told one by one have no class weights",
                where="class_weights",
                expected="none, with multi_label",
                got=self.class_weights,
            )
        if not self.multi_label:
            fix = "set multi_label=true, or leave out separator"
            check_unused(self, ["separator"], where="where a row has one label", fix=fix)
        if self.multi_hot and not self.multi_label:
            raise UserError(
                "0 or 1 for each label, where a row has one label",
                where="multi_hot",
                expected="null, or multi_label=true",
                got=self.multi_hot,
            )

    @property
    def metric(self) -> str:
        """Accuracy; of several labels, micro F1."""
        return "micro_f1" if self.multi_label else "accuracy"

    @property
    def has_classes(self) -> bool:
        """Unless there are several labels a row."""
        return not self.multi_label

    @property
    def num_outputs(self) -> int:
        """One for each label."""
        return max(1, len(self.labels))

    # --- On the host ---

    @property
    def about(self) -> str:
        """What is told of the labels at the start."""
        return f"{len(self.labels)} labels ({list_labels(self.labels)})"

    @property
    def label_notes(self) -> tuple[str, ...]:
        """Labels that differ in spelling alone, that stand for nothing, or that are amounts."""
        notes = label_notes(self.labels)
        amounts = None if self.multi_label else regress_hint(self.labels)
        return notes if amounts is None else (*notes, amounts)

    def learn_labels(self, train: Table) -> "Classify":
        """Takes the labels from the training split where none are given, and weighs them."""
        if self.multi_label:
            return self._learn_several(train)
        found = Counter(row_labels.read_labels(train, self.label))
        labels = row_labels.learn_labels(found, self.labels, self.label)
        balanced = self.class_weights == "balanced"
        weights = row_labels.balanced_weights(found, labels) if balanced else ()
        return dataclasses.replace(self, labels=labels, weights_by_label=weights)

    def _learn_several(self, train: Table) -> "Classify":
        rows = row_labels.read_label_lists(train, self.label, self.separator)
        hot = row_labels.is_multi_hot(rows) if self.multi_hot is None else self.multi_hot
        labels = self.labels
        if hot:
            labels = labels or tuple(str(i) for i in range(len(rows[0])))
            rows = row_labels.from_multi_hot(rows, train, self.label, labels)
        found = Counter(label for row in rows for label in row)
        labels = row_labels.learn_labels(found, labels, self.label, at_least=1)
        return dataclasses.replace(self, labels=labels, multi_hot=hot or self.multi_hot)

    def _rows_of_labels(self, table: Table) -> list[list[str]]:
        if not self.multi_label:
            return [[label] for label in row_labels.read_labels(table, self.label)]
        rows = row_labels.read_label_lists(table, self.label, self.separator)
        hot = self.multi_hot
        if hot is None:  # the training split was not, or was not read: the labels were given
            hot = row_labels.is_multi_hot(rows, self.labels)
        return row_labels.from_multi_hot(rows, table, self.label, self.labels) if hot else rows

    def label_numbers(self, table: Table) -> np.ndarray:
        """The labels of a table: int32 [N], or float32 [N, K] of several. Raises UserError."""
        rows = self._rows_of_labels(table)
        numbers = row_labels.number_labels(rows, table, self.label, self.labels)
        if not self.multi_label:
            return np.array(numbers, np.int32).reshape(-1)
        matrix = np.zeros((len(rows), len(self.labels)), np.float32)
        for i, row in enumerate(numbers):
            matrix[i, row] = 1
        return matrix

    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """Accuracy, F1 (macro, micro, weighted) and MCC, or those of several labels."""
        from jaxssl.scores.classification import classification_scores, multi_label_scores

        logits = predictions["logits"]
        if self.multi_label:
            return multi_label_scores((logits > 0).astype(int), references.astype(int))
        return classification_scores(np.argmax(logits, axis=-1), references, self.labels)

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """Right and all [E, 2]; of several labels right, predicted and given [E, 3]."""
        logits = predictions["logits"]
        if self.multi_label:
            chosen, given = logits > 0, np.asarray(references) > 0
            counts = [(chosen & given).sum(1), chosen.sum(1), given.sum(1)]
        else:
            right = np.argmax(logits, axis=-1) == references
            counts = [right, np.ones_like(right)]
        return np.stack(counts, axis=-1).astype(np.float64)

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """Accuracy; of several labels, micro F1."""
        return tallies.f1(sums) if self.multi_label else tallies.share(sums)

    def details(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, Any]:
        """Precision, recall and F1 of each label; of one label a row, the confusion matrix too."""
        from jaxssl.scores.classification import per_label_report

        logits = predictions["logits"]
        if self.multi_label:
            given = (logits > 0).astype(int), references.astype(int)
            return {"per_class": per_label_report(*given, self.labels)}
        return row_labels.label_details(np.argmax(logits, axis=-1), references, self.labels)

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`label` (or `labels`, of several) and the probability of each label."""
        logits = predictions["logits"]
        if not self.multi_label:
            shares = row_labels.softmax(logits)
            return [row_labels.label_output(row, self.labels) for row in shares]
        rows = []
        for row in 1 / (1 + np.exp(-logits.astype(np.float64))):
            chosen = [label for label, share in zip(self.labels, row) if share > 0.5]
            rows.append({"labels": chosen, "probabilities": row_labels.by_label(row, self.labels)})
        return rows

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Logits that say the most frequent label of each row; of several, those of most rows."""
        count = len(references)
        if self.multi_label:
            return {"logits": np.tile(np.mean(train, axis=0) - 0.5, (count, 1))}
        return {"logits": row_labels.most_frequent(train, len(self.labels), count)}

    # --- On the device ---

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the pooled row. In training with R-Drop, rows come in pairs."""
        batch = self.passed(batch, key)
        logits = self.head_outputs(model, params, outputs["hidden"], batch, key)
        training = key is not None
        return self.score_logits(logits, batch, training=training, several=self.multi_label)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`logits` [B, K]."""
        return {"logits": self.head_outputs(model, params, outputs["hidden"], batch, None)}
