"""Classification of one text or a pair: one label of several, or any number of them."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.tables import Table
from jaxssl.data.tokenizer import Tokenizer
from jaxssl.models.heads import Outputs
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Scores
from jaxssl.ops import label_losses
from jaxssl.scores import tallies
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.pooling import (
    PoolingChoice,
    check_pooling,
    head_input,
    pooled,
    without_unused_pooler,
)
from jaxssl.tasks.texts import encode_labelled

HEAD = "classify"


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Tell which label a text, or a pair of texts, has."""

    name: Literal["classify"] = "classify"
    """The task."""
    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of a second text; null for one text a row."""
    label: str = "label"
    """Column of the label; of several, a list or a string with `separator`."""
    labels: tuple[str, ...] = ()
    """The labels in the order of their numbers; empty takes those of the training split, sorted."""
    multi_label: bool = False
    """A row may have any number of labels, none too."""
    separator: str = ","
    """Between several labels in a string."""
    pooling: PoolingChoice = "auto"
    """What stands for the row: `cls` (through the model's pooler, if it has one), `mean` of its
    tokens, `last` token, or what the family is used with: `last` for causal models, else `cls`.
    It matters: compare them where the model was not trained for one."""
    dropout: float = 0.1
    """On what goes into the head."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each row by rows / (labels * rows of its label)."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all labels evenly."""
    focal: float = 0.0
    """Gamma of the focal loss: rows that are right already count less. 0 is cross entropy."""
    r_drop: float = 0.0
    """Alpha of R-Drop (Liang et al., 2021): each row goes through dropout twice, and the loss is
    the mean cross entropy plus alpha * (KL(p, q) + KL(q, p)) / 4, half of the paper's."""
    weights_by_label: tuple[float, ...] = ()
    """Filled in with `class_weights`."""

    def __post_init__(self):
        check_at_least(0, self, "dropout", "label_smoothing", "focal", "r_drop")
        if self.dropout >= 1 or self.label_smoothing >= 1:
            raise UserError(
                "a share is out of range",
                where="dropout, label_smoothing",
                expected="below 1",
                got=(self.dropout, self.label_smoothing),
            )
        if self.multi_label and self.class_weights != "none":
            raise UserError(
                "class weights are for one label a row",
                where="class_weights",
                expected="none, with multi_label",
                got=self.class_weights,
            )

    coefficients = {"classify": 1.0}

    @property
    def metric(self) -> str:
        """Accuracy; of several labels, micro F1."""
        return "micro_f1" if self.multi_label else "accuracy"

    @property
    def passes(self) -> int:
        """How often a training step sends each row through the model."""
        return 2 if self.r_drop else 1

    @property
    def heads(self) -> tuple[Outputs, ...]:
        """One output for each label."""
        return (Outputs(name=HEAD, size=max(1, len(self.labels)), dropout=self.dropout),)

    # --- On the host ---

    @property
    def summary(self) -> str:
        """What is told of the labels at the start."""
        more = ", ..." if len(self.labels) > 8 else ""
        return f"{len(self.labels)} labels ({', '.join(self.labels[:8])}{more})"

    def fit_model(self, model: ModelConfig) -> ModelConfig:
        """Without a pooler that is not used."""
        return without_unused_pooler(self.pooling, model)

    def learn_labels(self, train: Table) -> "Classify":
        """Takes the labels from the training split where none are given, and weighs them."""
        found = Counter(label for row in self._rows_of_labels(train) for label in row)
        labels = self.labels or tuple(sorted(found, key=_natural))
        unknown = sorted(set(found) - set(labels))
        without = [label for label in labels if not found[label]]
        if unknown or without:
            raise UserError(
                "the labels given are not those of the training split",
                where="task.labels",
                expected="each label with an example, and no other in the data",
                got=f"without an example: {without or 'none'}; not listed: {unknown or 'none'}",
            )
        if len(labels) < 2 and not self.multi_label:
            raise UserError(
                "there is nothing to tell apart",
                where=f"task.label={self.label}",
                expected="at least two labels in the training split",
                got=", ".join(labels) or "none",
            )
        weights: tuple[float, ...] = ()
        if self.class_weights == "balanced":
            total = sum(found.values())
            weights = tuple(total / (len(labels) * found[label]) for label in labels)
        return dataclasses.replace(self, labels=labels, weights_by_label=weights)

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of token ids with `labels`: int32 [N], or float32 [N, K] of several."""
        return encode_labelled(
            table,
            tokenizer,
            max_length,
            split,
            text=self.text,
            pair=self.pair,
            labels=self.label_numbers(table) if labelled else None,
        )

    def _rows_of_labels(self, table: Table) -> list[list[str]]:
        rows = []
        for value, place in zip(table.column(self.label, "task.label"), table.places):
            if self.multi_label:
                parts = value.split(self.separator) if isinstance(value, str) else value or []
                rows.append([str(part).strip() for part in parts if str(part).strip()])
            elif isinstance(value, list | dict):
                raise UserError(
                    "a row has several labels",
                    where=f"{place}, column {self.label}",
                    expected="one label, or task.multi_label=true",
                    got=repr(value)[:80],
                )
            elif value is None or str(value).strip() == "":
                raise UserError(
                    "a row has no label",
                    where=f"{place}, column {self.label}",
                    expected="a label",
                    got=repr(value),
                )
            else:
                rows.append([str(value).strip()])
        return rows

    def label_numbers(self, table: Table) -> np.ndarray:
        """The labels of a table: int32 [N], or float32 [N, K] of several. Raises UserError."""
        number = {label: i for i, label in enumerate(self.labels)}
        rows = self._rows_of_labels(table)
        for row, place in zip(rows, table.places):
            for label in row:
                if label not in number:
                    raise UserError(
                        "a label that the training split does not have",
                        where=f"{place}, column {self.label}",
                        expected=", ".join(self.labels[:20]),
                        got=repr(label),
                        fix=did_you_mean(label, self.labels),
                    )
        if not self.multi_label:
            return np.array([number[row[0]] for row in rows], np.int32)
        matrix = np.zeros((len(rows), len(self.labels)), np.float32)
        for i, row in enumerate(rows):
            matrix[i, [number[label] for label in row]] = 1
        return matrix

    def scores(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, float]:
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
        from jaxssl.scores.classification import confusion, per_class_report, per_label_report

        logits = predictions["logits"]
        if self.multi_label:
            given = (logits > 0).astype(int), references.astype(int)
            return {"per_class": per_label_report(*given, self.labels)}
        chosen = np.argmax(logits, axis=-1)
        counts = confusion(chosen, references, len(self.labels))
        return {
            "per_class": per_class_report(chosen, references, self.labels),
            "confusion": {"labels": list(self.labels), "counts": counts.tolist()},
        }

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`label` (or `labels`, of several) and the probability of each label."""
        logits = predictions["logits"].astype(np.float64)
        if self.multi_label:
            shares = 1 / (1 + np.exp(-logits))
        else:
            shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
        rows = []
        for row in shares:
            chosen = [label for label, share in zip(self.labels, row) if share > 0.5]
            best = {"labels": chosen} if self.multi_label else {"label": self.labels[row.argmax()]}
            rows.append({**best, "probabilities": dict(zip(self.labels, row.round(6).tolist()))})
        return rows

    def blind(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Logits that say the most frequent label of each row; of several, those of most rows."""
        count = len(references)
        if self.multi_label:
            return {"logits": np.tile(np.mean(train, axis=0) - 0.5, (count, 1))}
        shares = np.bincount(train, minlength=len(self.labels))
        return {"logits": np.tile(shares.astype(np.float64), (count, 1))}

    # --- On the device ---

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The pooling must be one that the model has."""
        check_pooling(self.pooling, model)

    def check_rows(self, rows: Batch) -> None:
        """Nothing depends on the rows."""

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Nothing is hidden."""
        return dict(batch)

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The summed weights of the rows."""
        return {"classify": jnp.sum(self._row_weights(batch))}

    def score(
        self,
        model: Model,
        params: Params,
        hidden: jax.Array,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Scores:
        """Cross entropy of the pooled row. In training with R-Drop, rows come in pairs."""
        logits = self._logits(model, params, hidden, batch, key)
        loss_of = label_losses.sigmoid_loss if self.multi_label else label_losses.softmax_loss
        loss = loss_of(logits, batch["labels"], self.label_smoothing, self.focal)
        weights, plain = self._row_weights(batch), loss_of(logits, batch["labels"])
        if key is not None and self.r_drop:
            one, other = logits[0::2], logits[1::2]
            divergence = (
                label_losses.symmetric_binary_divergence(one, other)
                if self.multi_label
                else label_losses.symmetric_divergence(one, other)
            )
            loss = (loss[0::2] + loss[1::2]) / 2 + self.r_drop * divergence / 4
            weights, plain, logits = weights[0::2], plain[0::2], one
            batch = {name: value[0::2] for name, value in batch.items()}
        real = batch["example_weights"]
        count = jnp.sum(real)
        hits = self._hits(logits, batch["labels"])
        metrics = {
            "nll/classify": (jnp.sum(plain * real), count),
            "accuracy/classify": (jnp.sum(hits * real), count),
        }
        return Scores({"classify": jnp.sum(loss * weights)}, metrics)

    reads = 1

    def head_inputs(self, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
        """What is pooled."""
        return head_input(self.pooling, model, hidden, batch)

    def predict(
        self, model: Model, params: Params, hidden: jax.Array, batch: Batch
    ) -> dict[str, jax.Array]:
        """`logits` [B, K]."""
        return {"logits": self._logits(model, params, hidden, batch, None)}

    def _logits(self, model, params, hidden, batch, key) -> jax.Array:
        return model.head(params, HEAD, pooled(self.pooling, model, params, hidden, batch), key)

    def _row_weights(self, batch: Batch) -> jax.Array:
        if not self.weights_by_label:
            return batch["example_weights"]
        return batch["example_weights"] * jnp.asarray(self.weights_by_label)[batch["labels"]]

    def _hits(self, logits: jax.Array, labels: jax.Array) -> jax.Array:
        if self.multi_label:
            return jnp.mean((logits > 0) == (labels > 0.5), axis=-1, dtype=jnp.float32)
        return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)


def _natural(label: str) -> tuple[int, float, str]:
    """Numbers in their order, before words in theirs."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label
