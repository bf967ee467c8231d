"""Regression: a number for one text or a pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.data.tables.table import Table
from jaxssl.models.model import Model
from jaxssl.objectives.base import Outputs, Sums
from jaxssl.ops.label_losses import squared_loss
from jaxssl.scores import tallies
from jaxssl.tasks.pooled import PooledTask


@dataclass(frozen=True, kw_only=True)
class Regress(PooledTask):
    """Tell a number of a text, or of a pair of texts; the loss is the mean squared error."""

    name: Literal["regress"] = "regress"
    """The task."""
    label: str = "label"
    """Column of the number."""
    clip: tuple[float, ...] = ()
    """Lowest and highest number to predict ([0, 5] for STS-B); empty predicts what comes out."""

    def __post_init__(self):
        super().__post_init__()
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
    def num_outputs(self) -> int:
        """One number."""
        return 1

    # --- On the host ---

    @property
    def about(self) -> str:
        """What is told of the labels at the start."""
        return f"the number in column {self.label}"

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

    def label_numbers(self, table: Table) -> np.ndarray:
        """The numbers float32 [N]. Raises UserError."""
        return np.array(table.numbers(self.label, "task.label"), np.float32)

    def own_scores(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
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

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Squared error of the pooled row."""
        value = self.head_outputs(model, params, outputs["hidden"], batch, key)[:, 0]
        weights = batch["example_weights"]
        loss = jnp.sum(squared_loss(value, batch["labels"]) * weights)
        return Sums({"regress": loss}, {"mse/regress": (loss, jnp.sum(weights))})

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """`value` [B]."""
        out = self.head_outputs(model, params, outputs["hidden"], batch, None)
        return {"value": out[:, 0]}
