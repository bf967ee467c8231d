"""A task: which side of a bound a number is on, for a text."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl import Objective, PooledTask, Sums, register


@dataclass(frozen=True, kw_only=True)
class MoreOrLess(PooledTask):
    """Tell whether the number of a text is above a bound."""

    name: Literal["more_or_less"] = "more_or_less"
    """The task."""
    bound: float = 0.5
    """What the numbers are compared with."""

    metric = "right"
    num_outputs = 1

    @property
    def summary(self):
        """What is told at the start."""
        return f"column {self.label} above {self.bound:g}"

    def label_numbers(self, table):
        """0 or 1 for each row."""
        numbers = np.array(table.numbers(self.label, "task.label"))
        return (numbers > self.bound).astype(np.float32)

    def sums(self, model, params, outputs, batch, key=None):
        """The logistic loss of the pooled row."""
        logit = self.head_outputs(model, params, outputs["hidden"], batch, key)[:, 0]
        losses = jax.nn.softplus(jnp.where(batch["labels"] > 0.5, -logit, logit))
        loss, count = jnp.sum(losses * batch["example_weights"]), batch["example_weights"].sum()
        return Sums({self.name: loss}, {f"nll/{self.name}": (loss, count)})

    def predict(self, model, params, outputs, batch):
        """`logit` [B]."""
        out = self.head_outputs(model, params, outputs["hidden"], batch, None)
        return {"logit": out[:, 0]}

    def own_scores(self, predictions, references):
        """The share of the rows that are right."""
        return {"right": float(((predictions["logit"] > 0) == (references > 0)).mean())}

    def tallies(self, predictions, references):
        """Right, and one, for each row."""
        right = (predictions["logit"] > 0) == (references > 0)
        return np.stack([right, np.ones_like(right)], axis=-1).astype(np.float64)

    def from_tallies(self, sums):
        """The share."""
        return sums[..., 0] / sums[..., 1]

    def outputs(self, predictions, references) -> list[dict[str, Any]]:
        """`more`, true or false."""
        return [{"more": bool(logit > 0)} for logit in predictions["logit"]]

    def majority_baseline(self, train, references):
        """The side that most rows are on."""
        return {"logit": np.full(len(references), np.mean(train) - 0.5)}


register(Objective, MoreOrLess)
