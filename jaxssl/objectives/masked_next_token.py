"""Masked next-token prediction (GPT-BERT, Charpentier and Samuel, 2024).

Tokens are masked as in BERT and seen from both sides, but each is guessed from the state before its
own, by the head of a causal language model: the same blocks and the same head learn both. A run of
both is two streams, masked and causal, in GPT-BERT 15 to 1 (`objectives/gpt-bert-small`).
Source: ltgoslo/gpt-bert, pretraining/dataset.py and model_extra.py.

Departures: single tokens are masked (there spans of one to three, and places that were masked less
often so far come first).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import CAUSAL_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Outputs, Sums
from jaxssl.objectives.masked_lm import MaskedLm, check_mask_token
from jaxssl.objectives.prefix_lm import check_sees_ahead
from jaxssl.objectives.slots import gathered, shown, slot_sums
from jaxssl.ops.attention.pattern import Pattern

NAME = "masked_next_token"
PATTERN = Pattern()


@dataclass(frozen=True, kw_only=True)
class MaskedNextToken(MaskedLm):
    """Guess the tokens that were masked, each from the state before it."""

    name: Literal["masked_next_token"] = "masked_next_token"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """That of a causal language model."""
        return (CAUSAL_LM,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each guessed token."""
        return {NAME: Loss(per_token=True, shown="masked next token", sees_both_sides=True)}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The tokenizer needs a mask token. Any body will do."""
        check_mask_token(vocabulary)
        check_sees_ahead(model, fix="set model.part=encoder")

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: every token counts."""
        return False

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """As a masked language model. The first token of a document has no state before it, so it
        has no weight."""
        made = super().corrupt(batch, seed, vocabulary)
        places = made["mask_positions"]
        first = jnp.take_along_axis(batch["positions"], places, axis=1) == 0
        return {
            **made,
            "mask_positions": jnp.maximum(places - 1, 0),
            "mask_weights": made["mask_weights"] * ~first,
        }

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of chosen tokens."""
        return {NAME: jnp.sum(batch["mask_weights"])}

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """Hidden states that see both sides, whatever the body sees else."""
        return {"hidden": model.encode(params, batch, key, PATTERN)}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy at the places before the chosen ones."""
        weights = batch["mask_weights"]
        at = gathered(outputs["hidden"], batch["mask_positions"])
        labels = batch["mask_labels"]
        loss, sums = slot_sums(model, params, "causal_lm", at, labels, weights, self.chunk)
        return Sums({NAME: loss}, shown(NAME, sums, jnp.sum(weights)))
