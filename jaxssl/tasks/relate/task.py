"""Relation extraction: which relation two entities of a text have."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.heads import LabelHead
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs, Sums
from jaxssl.ops.pooling import states_at
from jaxssl.scores import tallies
from jaxssl.tasks import labels as row_labels
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.label_loss import LabelLoss
from jaxssl.tasks.label_notes import label_notes, list_labels
from jaxssl.tasks.relate.entities import EntityColumns, MarkedEntities
from jaxssl.tasks.relate.marked_rows import fit, rows_that_fit, tokenise
from jaxssl.tasks.relate.markers import check_known, mark, opening
from jaxssl.tasks.words import has_words

NO_ROW = -1
"""Number of the only reference of a table none of whose rows fits: it counts those left out."""


class Reference(NamedTuple):
    """What is known of a row.

    Attributes:
      row: its number in the table.
      left_out: how many rows of the table are no rows here.
      label: the number of its relation; None where it is to be predicted.
    """

    row: int
    left_out: int
    label: int | None


@dataclass(frozen=True, kw_only=True)
class Relate(LabelLoss):
    """Tell which relation two entities of a text have, from the hidden states at the symbols of
    markers put before them (Baldini Soares et al., 2019; Zhou and Chen, 2021)."""

    name: Literal["relate"] = "relate"
    """The task."""
    entities: EntityColumns = MarkedEntities()
    """The columns of the text and of where its entities are."""
    label: str = "relation"
    """Column of the relation. Its name tells the direction, if it has one."""
    labels: tuple[str, ...] = ()
    """The relations in the order of their numbers; empty takes those of the training split,
    sorted."""
    negative: str | None = None
    """The class of no relation (`Other`, `no_relation`), which F1 leaves out; null: each counts."""
    markers: Literal["punctuation", "typed"] = "punctuation"
    """`@ Bill @` and `# Microsoft #`, or with types `@ * person * Bill @` and
    `# ^ organization ^ Microsoft #`."""
    subj_type: str | None = None
    """Column of the first entity's type, for typed markers."""
    obj_type: str | None = None
    """Column of the second entity's type, for typed markers."""
    too_far: Literal["refuse", "leave_out"] = "refuse"
    """What to do with a row whose entities are too far apart for `data.max_length`; those left out
    are counted, and said, and are neither trained on nor scored."""

    def __post_init__(self):
        super().__post_init__()
        given = [name for name in (self.subj_type, self.obj_type) if name is not None]
        if len(given) != (2 if self.markers == "typed" else 0):
            raise UserError(
                "typed markers need the columns of both types"
                if self.markers == "typed"
                else "columns of types are read for typed markers alone",
                where="subj_type, obj_type",
                expected="two columns" if self.markers == "typed" else "null, or markers=typed",
                got=(self.subj_type, self.obj_type),
            )

    @property
    def metric(self) -> str:
        """Micro F1 without the negative class."""
        return "f1"

    @property
    def text_column(self) -> str | None:
        """That of the text, where the entities are marked in it and have no types."""
        if not isinstance(self.entities, MarkedEntities) or self.markers == "typed":
            return None
        return self.entities.text

    @property
    def text_columns(self) -> Mapping[str, str]:
        """That of the text or of the words."""
        return self.entities.text_columns

    def needed_columns(self, labelled: bool) -> Mapping[str, str]:
        """That, where the entities are and of which types, and the relation."""
        types = {"task.subj_type": self.subj_type, "task.obj_type": self.obj_type}
        known = {key: column for key, column in types.items() if column is not None}
        return {**super().needed_columns(labelled), **self.entities.position_columns, **known}

    def has_text(self, value: Any) -> bool:
        """Whether there is some text, or a word."""
        return has_words(value) and super().has_text(value)

    @property
    def heads(self) -> tuple[LabelHead, ...]:
        """Both entities' states side by side, a dense layer with tanh, an output for each label."""
        size = max(1, len(self.labels))
        head = LabelHead(
            name=self.head_name, size=size, num_inputs=2, dropout=self.dropout, transform="tanh"
        )
        return (head,)

    # --- On the host ---

    @property
    def about(self) -> str:
        """What is told of the labels at the start."""
        negative = "" if self.negative is None else f"; {self.negative} is no relation"
        listed = list_labels(self.labels)
        return f"{len(self.labels)} relations ({listed}){negative}"

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: it reads the states at the markers."""
        return False

    def learn_labels(self, train: Table) -> "Relate":
        """Takes the relations from the training split where none are given, and weighs them."""
        found = Counter(row_labels.read_labels(train, self.label))
        labels = row_labels.learn_labels(found, self.labels, self.label)
        if self.negative is not None and self.negative not in labels:
            raise UserError(
                "the class of no relation is not among the labels",
                where="task.negative",
                expected="null, or one of " + list_labels(labels),
                got=repr(self.negative),
                fix=did_you_mean(self.negative, labels),
            )
        balanced = self.class_weights == "balanced"
        weights = row_labels.balanced_weights(found, labels) if balanced else ()
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
        """Rows of marked texts with `entity_starts` int32 [N, 2] and `labels` int32 [N]."""
        openings = self._openings(table)
        check_known(tokenizer, [text for pair in openings for text in pair])
        marked = [mark(pair, both) for pair, both in zip(self.entities.read(table), openings)]
        numbers = self._numbers(table) if labelled else None
        tokens = tokenise(tokenizer, marked, table.places)
        leave_out = self.too_far == "leave_out"
        kept, note = rows_that_fit(
            *(tokens, tokenizer, max_length, table.places, split),
            leave_out=leave_out,
            may_be_none=leave_out and not labelled,
        )
        examples, truncation = fit(tokens, tokenizer, max_length, kept)
        if numbers is not None:
            per_row = {**examples.per_row, "labels": numbers[kept]}
            examples = dataclasses.replace(examples, per_row=per_row)
        left_out = len(table) - len(kept)
        references = [
            Reference(row, left_out, None if numbers is None else int(numbers[row]))
            for row in kept.tolist()
        ] or [Reference(NO_ROW, left_out, None)]
        notes = label_notes(self.labels) if labelled and split == "train" else ()
        return Encoded(examples, references, ((note,) if note else ()) + notes, truncation)

    def _openings(self, table: Table) -> list[tuple[str, str]]:
        """The opening markers of each row."""
        if self.markers == "punctuation":
            return [(opening(0), opening(1))] * len(table)
        subjects = _types(table, self.subj_type or "", "task.subj_type")
        objects = _types(table, self.obj_type or "", "task.obj_type")
        return [(opening(0, s), opening(1, o)) for s, o in zip(subjects, objects)]

    def _numbers(self, table: Table) -> np.ndarray:
        rows = [[label] for label in row_labels.read_labels(table, self.label)]
        numbers = row_labels.number_labels(rows, table, self.label, self.labels)
        return np.array(numbers, np.int32).reshape(-1)

    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """Micro precision, recall and F1 without the negative class; F1 of each relation there is;
        `semeval_f1`, the official score of SemEval-2010 task 8, where labels have directions;
        accuracy; and `left_out`, how many rows were too long to be scored, if any."""
        from jaxssl.scores.relations import has_directions, relation_scores, semeval_scores

        predicted = [self.labels[i] for i in predictions["logits"].argmax(axis=-1)]
        reference = [self.labels[row.label] for row in references]
        found = relation_scores(predicted, reference, self.negative)
        hits = sum(p == r for p, r in zip(predicted, reference))
        scores = {name: found[name] for name in ("f1", "precision", "recall")}
        scores["accuracy"] = hits / len(reference)
        if has_directions(self.labels, self.negative):
            official = semeval_scores(predicted, reference, self.negative)
            scores["semeval_f1"] = official["macro_f1"]
        for relation, row in found["relations"].items():
            if row["support"]:
                scores[f"f1/{relation}"] = row["f1"]
        left_out = references[0].left_out
        return scores | ({"left_out": float(left_out)} if left_out else {})

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """Right, predicted and given relations of each row [E, 3], the negative one left out."""
        predicted = predictions["logits"].argmax(axis=-1)
        given = np.array([row.label for row in references])
        negative = -1 if self.negative is None else self.labels.index(self.negative)
        counts = [(predicted == given) & (given != negative), predicted != negative]
        return np.stack([*counts, given != negative], axis=-1).astype(np.float64)

    def identity(self, references: Any) -> list[Any]:
        """Which rows there are, and their labels."""
        return [(row.row, row.label) for row in references]

    @property
    def has_classes(self) -> bool:
        """One relation a row."""
        return True

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """Micro F1."""
        return tallies.f1(sums)

    def details(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, Any]:
        """Precision, recall and F1 of each relation, and the confusion matrix."""
        predicted = predictions["logits"].argmax(axis=-1)
        given = np.array([row.label for row in references])
        return row_labels.label_details(predicted, given, self.labels)

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`label` and the probability of each; null for a row that was too long."""
        count = references[0].left_out + sum(each.row != NO_ROW for each in references)
        rows: list[dict[str, Any]] = [{"label": None, "probabilities": None} for _ in range(count)]
        logits = predictions.get("logits", np.zeros((0, len(self.labels))))
        for shares, reference in zip(row_labels.softmax(logits), references):
            rows[reference.row] = row_labels.label_output(shares, self.labels)
        return rows

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """Logits that say the most frequent label of each row."""
        numbers = np.array([row.label for row in train])
        return {"logits": row_labels.most_frequent(numbers, len(self.labels), len(references))}

    # --- On the device ---

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """Refuses causal models: at its marker they have seen nothing of the entity."""
        if model.causal:
            raise UserError(
                "a causal model has seen nothing of an entity at the marker before it",
                where="task.name=relate",
                expected="a bidirectional model, such as bert",
                got=model.name,
                fix="use task.name=classify with pooling=last over texts that hold the marks",
            )

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the relation. In training with R-Drop, rows come in pairs."""
        batch = self.passed(batch, key)
        logits = self._logits(model, params, outputs["hidden"], batch, key)
        return self.score_logits(logits, batch, training=key is not None)

    @property
    def states_read(self) -> int:
        """Those at both markers."""
        return 2

    def head_inputs(self, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
        """The states at both markers."""
        return states_at(hidden, batch["entity_starts"]).reshape(len(hidden), 2, -1)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`logits` [B, K]."""
        return {"logits": self._logits(model, params, outputs["hidden"], batch, None)}

    def _logits(self, model, params, hidden, batch, key) -> jax.Array:
        if "features" in batch:  # encoded before: the two states alone
            states = hidden.reshape(hidden.shape[0], -1)
        else:
            states = states_at(hidden, batch["entity_starts"])
        return model.head(params, self.head_name, states, key, batch.get("row"))


def _types(table: Table, column: str, key: str) -> list[str]:
    values = table.strings(column, key)
    for value, place in zip(values, table.places):
        if not value.strip():
            raise UserError(
                "an entity has no type",
                where=f"{place}, column {column}",
                expected="the type of the entity, such as person",
                got=repr(value),
            )
    return values
