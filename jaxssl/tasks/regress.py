"""Regression: a number for one text or a pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_share
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.data.tables.table import Table
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.models.heads import LabelHead
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Outputs, Sums
from jaxssl.ops.label_losses import squared_loss
from jaxssl.scores import tallies
from jaxssl.tasks.base import Encoded, Task
from jaxssl.tasks.pooling import (
    PoolingChoice,
    check_pooling,
    head_input,
    pooled,
    reads_pooler,
)
from jaxssl.tasks.texts import encode_labelled

HEAD = "regress"


@dataclass(frozen=True, kw_only=True)
class Regress(Task):
    """Tell a number of a text, or of a pair of texts; the loss is the mean squared error."""

    name: Literal["regress"] = "regress"
    """The task."""
    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of a second text; null for one text a row."""
    label: str = "label"
    """Column of the number."""
    clip: tuple[float, ...] = ()
    """Lowest and highest number to predict ([0, 5] for STS-B); empty predicts what comes out."""
    pooling: PoolingChoice = "auto"
    """What stands for the row, as for `classify`."""
    dropout: float = 0.1
    """On what goes into the head."""

    def __post_init__(self):
        check_share(self, "dropout")
        if self.clip and (len(self.clip) != 2 or self.clip[0] >= self.clip[1]):
            raise UserError(
                "these are not bounds",
                where="clip",
                expected="[lowest, highest], or nothing",
                got=list(self.clip),
            )

    @property
    def metric(self) -> str:
        """Pearson's correlation."""
        return "pearson"

    @property
    def text_column(self) -> str | None:
        """That of the text, unless there are pairs."""
        return None if self.pair else self.text

    @property
    def heads(self) -> tuple[LabelHead, ...]:
        """One number."""
        return (LabelHead(name=HEAD, scope="row", size=1, dropout=self.dropout),)

    # --- On the host ---

    @property
    def summary(self) -> str:
        """What is told of the labels at the start."""
        return f"the number in column {self.label}"

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """Where the first token goes through it."""
        return reads_pooler(self.pooling, model)

    def learn_labels(self, train: Table) -> "Regress":
        """Checks that there are different numbers to learn."""
        numbers = train.numbers(self.label, "task.label")
        if len(set(numbers)) < 2:
            raise UserError(
                "there is nothing to learn",
                where=f"task.label={self.label}",
                expected="different numbers in the training split",
                got=f"{len(numbers)} times {numbers[0]}" if numbers else "none",
            )
        return self

    def encode(
        self,
        table: Table,
        tokenizer: Tokenizer,
        max_length: int,
        split: str,
        *,
        labelled: bool = True,
    ) -> Encoded:
        """Rows of token ids with `labels` float32 [N]."""
        numbers = table.numbers(self.label, "task.label") if labelled else None
        return encode_labelled(
            table,
            tokenizer,
            max_length,
            split,
            text=self.text,
            pair=self.pair,
            labels=None if numbers is None else np.array(numbers, np.float32),
        )

    def scores(self, predictions: Mapping[str, np.ndarray], references: Any) -> dict[str, float]:
        """Pearson's and Spearman's correlation, mean squared and mean absolute error."""
        from jaxssl.scores.regression import regression_scores

        return regression_scores(self._clipped(predictions["value"]), references)

    def tallies(self, predictions: Mapping[str, np.ndarray], references: Any) -> np.ndarray:
        """Moments of predicted and given numbers [E, 6]."""
        return tallies.moments(self._clipped(predictions["value"]), references)

    def from_tallies(self, sums: np.ndarray) -> np.ndarray:
        """Pearson's correlation."""
        return tallies.correlation(sums)

    def outputs(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> list[dict[str, Any]]:
        """`value`, the number."""
        return [{"value": float(value)} for value in self._clipped(predictions["value"])]

    def majority_baseline(self, train: Any, references: Any) -> dict[str, np.ndarray]:
        """The mean of the training split, which correlates with nothing."""
        return {"value": np.full(len(references), np.mean(train))}

    def _clipped(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values, self.clip[0], self.clip[1]) if self.clip else values

    # --- On the device ---

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The pooling must be one that the model has."""
        check_pooling(self.pooling, model)

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Squared error of the pooled row."""
        value = self._value(model, params, outputs, batch, key)
        weights = batch["example_weights"]
        loss = jnp.sum(squared_loss(value, batch["labels"]) * weights)
        return Sums({"regress": loss}, {"mse/regress": (loss, jnp.sum(weights))})

    @property
    def states_read(self) -> int:
        """What is pooled."""
        return 1

    def head_inputs(self, model: Model, hidden: jax.Array, batch: Batch) -> jax.Array:
        """What is pooled."""
        return head_input(self.pooling, model, hidden, batch)

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`value` [B]."""
        return {"value": self._value(model, params, outputs, batch, None)}

    def _value(self, model, params, outputs, batch, key) -> jax.Array:
        features = pooled(self.pooling, model, params, outputs["hidden"], batch)
        return model.head(params, HEAD, features, key, batch.get("row"))[:, 0]
