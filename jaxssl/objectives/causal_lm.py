"""Causal language modelling: each token from those before it in its document."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import CAUSAL_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.objectives.next_token import next_token_sums, next_tokens


@dataclass(frozen=True, kw_only=True)
class CausalLm(Objective):
    """Predict the next token. The first token of a document has no predictor and no loss."""

    name: Literal["causal_lm"] = "causal_lm"
    """The objective."""
    z_loss: float = 0.0
    """Factor of log(Z)**2, which keeps the logits' scale in check; PaLM used 1e-4."""
    chunk: int = 128
    """Positions of each row whose logits are held at once."""

    def __post_init__(self):
        check_at_least(1, self, "chunk")
        check_at_least(0, self, "z_loss")

    @property
    def heads(self) -> tuple[Head, ...]:
        """The token embedding, or a projection."""
        return (CAUSAL_LM,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token that has a predictor."""
        return {"causal_lm": Loss(per_token=True, shown="causal LM")}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The model must not see the answer."""
        if model.causal:
            return
        fix = (
            "set model.part=decoder, which is one"
            if model.encoder_decoder
            else "set objective.name=masked_lm, or take a recipe of a causal model "
            "(objectives/gpt-docstrings); prefix_lm learns with either"
        )
        raise UserError(
            "a bidirectional model sees the tokens it would have to predict",
            where="objective.name",
            expected="masked_lm, or a causal model such as gpt2",
            got="causal_lm",
            fix=fix,
        )

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Adds `next_tokens` int32 [B, T] and `next_weights` float32 [B, T]."""
        return next_tokens(batch)

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of tokens that have a predictor."""
        return {"causal_lm": jnp.sum(batch["next_weights"])}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy in chunks of the sequence: [B, T, V] logits never exist."""
        return next_token_sums(
            model,
            params,
            outputs["hidden"],
            batch["next_tokens"],
            batch["next_weights"],
            name="causal_lm",
            chunk=self.chunk,
            z_loss=self.z_loss,
        )
