"""Next sentence prediction (Devlin et al., 2018): was the second sentence a random one?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import NEXT_SENTENCE, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.ops.losses import cross_entropy


@dataclass(frozen=True, kw_only=True)
class NextSentence(Objective):
    """Tell a random second sentence from the next one. Needs rows of sentence pairs."""

    name: Literal["next_sentence"] = "next_sentence"
    """The objective."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """Two logits over the pooled first token."""
        return (NEXT_SENTENCE,)

    def sees_corrupted(self, training: bool) -> bool:
        """As BERT, whose pairs are masked."""
        return True

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each pair."""
        return {"next_sentence": Loss(shown="next sentence")}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The model needs a pooler."""
        if not model.body().pooler:
            raise UserError(
                "next sentence prediction needs a pooler",
                where="objective.name",
                expected="a bert model with pooler=true",
                got=model.name,
            )

    def check_rows(self, rows: Batch) -> None:
        """Rows must be sentence pairs."""
        if "next_sentence" not in rows:
            raise UserError(
                "next sentence prediction needs sentence pairs",
                where="data.rows.name",
                expected="pairs",
                got="rows without a next_sentence label",
            )

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of rows that are not padding."""
        return {"next_sentence": jnp.sum(_real(batch))}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the pooled first token."""
        logits = model.head(params, "next_sentence", model.pool(params, outputs["hidden"]))
        loss, sums = cross_entropy(logits, batch["next_sentence"], _real(batch))
        weight = jnp.sum(_real(batch))
        metrics = {
            "nll/next_sentence": (sums["nll"], weight),
            "accuracy/next_sentence": (sums["correct"], weight),
        }
        return Sums({"next_sentence": loss}, metrics)


def _real(batch: Batch) -> jax.Array:
    return (batch["segment_ids"][:, 0] > 0).astype(jnp.float32)
