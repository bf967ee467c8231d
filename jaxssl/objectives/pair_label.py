"""What objectives share that tell the two texts of a row apart from the pooled first token."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.ops.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class PairLabel(Objective):
    """An objective whose label the rows of pairs bring under its name (`data.rows.label`)."""

    @property
    @abstractmethod
    def head(self) -> Head:
        """Its head, over the pooled row."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """Logits over the pooled first token."""
        return (self.head,)

    def sees_corrupted(self, training: bool) -> bool:
        """As BERT, whose pairs are masked."""
        return True

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each pair."""
        return {self.name: Loss(shown=self.name.replace("_", " "))}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The model needs a pooler."""
        if not model.body().pooler:
            raise UserError(
                f"{self.name.replace('_', ' ')} prediction needs a pooler",
                where="objective.name",
                expected="a bert model with pooler=true",
                got=model.name,
            )

    def check_rows(self, rows: Batch) -> None:
        """Rows must be pairs with its label."""
        if self.name not in rows:
            raise UserError(
                f"{self.name.replace('_', ' ')} prediction needs sentence pairs",
                where="data.rows",
                expected=f"name: pairs, label: {self.name}",
                got=f"rows without a {self.name} label",
                fix=f"set data.rows.name=pairs data.rows.label={self.name}",
            )

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of rows that are not padding and have a label."""
        return {self.name: jnp.sum(_counted(batch))}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the pooled first token."""
        counted = _counted(batch)
        logits = model.head(params, self.head.name, model.pool(params, outputs["hidden"]))
        loss, sums = cross_entropy(logits, batch[self.name], counted)
        weight = jnp.sum(counted)
        metrics = {
            f"nll/{self.name}": (sums["nll"], weight),
            f"accuracy/{self.name}": (sums["correct"], weight),
        }
        return Sums({self.name: loss}, metrics)


def _counted(batch: Batch) -> jax.Array:
    """float32 [B]; 0 of padding, and of rows whose label means nothing."""
    real = (batch["segment_ids"][:, 0] > 0).astype(jnp.float32)
    return real * batch["pair_weights"] if "pair_weights" in batch else real
