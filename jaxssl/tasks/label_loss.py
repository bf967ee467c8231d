"""The loss of tasks that give a whole row a label: its options, and sums of logits."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.core.types import Batch, Params
from jaxssl.models.model import Model
from jaxssl.objectives.base import Sums
from jaxssl.ops import label_losses
from jaxssl.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class LabelLoss(Task):
    """What such tasks inherit: these fields, and the parts of an objective that follow of them."""

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
        super().__post_init__()
        check_at_least(0, self, "focal", "r_drop")
        check_share(self, "dropout", "label_smoothing")

    @property
    def own_forward(self) -> bool:
        """With R-Drop each row goes through the model twice."""
        return bool(self.r_drop)

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """Hidden states of each row, or in training with R-Drop of pairs of them."""
        return super().forward(model, params, self.passed(batch, key), key)

    def passed(self, batch: Batch, key: jax.Array | None) -> Batch:
        """The rows that go through the model: in training with R-Drop, each twice."""
        if key is None or not self.r_drop:
            return batch
        twice = {name: jnp.repeat(x, 2, axis=0) for name, x in batch.items()}
        if "row" in batch:  # each time with a dropout of its own
            twice["row"] = 2 * twice["row"] + jnp.arange(len(twice["row"]), dtype="uint32") % 2
        return twice

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The summed weights of the rows."""
        return {self.name: jnp.sum(self._row_weights(batch))}

    def score_logits(
        self, logits: jax.Array, batch: Batch, *, training: bool, several: bool = False
    ) -> Sums:
        """Summed cross entropy of logits [B, K], and the metrics of the real rows.

        Args:
          training: with R-Drop, rows then come in pairs.
          several: `labels` are 0 or 1 for each label [B, K], not numbers [B].
        """
        loss_of = label_losses.sigmoid_loss if several else label_losses.softmax_loss
        loss = loss_of(logits, batch["labels"], self.label_smoothing, self.focal)
        weights, plain = self._row_weights(batch), loss_of(logits, batch["labels"])
        if training and self.r_drop:
            one, other = logits[0::2], logits[1::2]
            divergence = (
                label_losses.symmetric_binary_divergence(one, other)
                if several
                else label_losses.symmetric_divergence(one, other)
            )
            loss = (loss[0::2] + loss[1::2]) / 2 + self.r_drop * divergence / 4
            weights, plain, logits = weights[0::2], plain[0::2], one
            batch = {name: value[0::2] for name, value in batch.items()}
        real = batch["example_weights"]
        count = jnp.sum(real)
        hits = _hits(logits, batch["labels"], several)
        metrics = {
            f"nll/{self.name}": (jnp.sum(plain * real), count),
            f"accuracy/{self.name}": (jnp.sum(hits * real), count),
        }
        return Sums({self.name: jnp.sum(loss * weights)}, metrics)

    def _row_weights(self, batch: Batch) -> jax.Array:
        if not self.weights_by_label:
            return batch["example_weights"]
        return batch["example_weights"] * jnp.asarray(self.weights_by_label)[batch["labels"]]


def _hits(logits: jax.Array, labels: jax.Array, several: bool) -> jax.Array:
    if several:
        return jnp.mean((logits > 0) == (labels > 0.5), axis=-1, dtype=jnp.float32)
    return (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
