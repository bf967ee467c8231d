"""Masked diffusion language modelling (MDLM, Sahoo et al., 2024; LLaDA, Nie et al., 2025).

In each row every token is masked with a probability of its own, and a masked token's loss is
divided by it. The mean over all tokens is a bound on the negative log-likelihood, which the
validation reports. Sources: kuleshov-group/mdlm, diffusion.py; ML-GSAI/SMDM and LLaDA.

The probabilities of consecutive examples go by the golden ratio: they are spread evenly over the
examples of a split, and each depends on its example alone. Training reads these in random order, so
that those of a batch are like independent ones (there: strata of each batch).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys, seed_key
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import MASKED_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.objectives.masked_lm import check_both_sides, check_mask_token
from jaxssl.objectives.slots import shown, slot_sums

NAME = "masked_diffusion"
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusion(Objective):
    """Guess masked tokens at every rate from nothing to all; the loss is a bound."""

    name: Literal["masked_diffusion"] = "masked_diffusion"
    """The objective."""
    least: float = 0.001
    """The smallest probability that a token is masked; the largest is 1."""
    chunk: int = 128
    """Places of each row whose logits are held at once."""

    def __post_init__(self):
        check_at_least(1, self, "chunk")
        if not 0 < self.least < 1:
            raise UserError(
                "not a probability of masking",
                where="least",
                expected="above 0 and below 1",
                got=self.least,
            )

    @property
    def heads(self) -> tuple[Head, ...]:
        """A transform over the token embedding."""
        return (MASKED_LM,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token of the text: a bound, so that perplexity is one, too."""
        return {NAME: Loss(per_token=True, shown="masked diffusion (bound)")}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The tokenizer needs a mask token and the model must see both sides."""
        check_mask_token(vocabulary)
        check_both_sides(model, NAME)

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Changes `tokens`; adds `diffusion_labels` int32 [B, T], `diffusion_weights` float32 [B,
        T], 1 over the probability where a token was masked, and `diffusion_text` float32 [B, T]."""
        mask, reserved = vocabulary.special_ids["mask"], jnp.asarray(vocabulary.reserved)
        rates = self.rates(batch, seed)

        def row(key, rate, tokens, segments):
            text = (segments > 0) & ~jnp.isin(tokens, reserved)
            masked = text & (jax.random.uniform(key, tokens.shape) < rate)
            return jnp.where(masked, mask, tokens), masked / rate, text.astype(jnp.float32)

        tokens, weights, text = jax.vmap(row)(
            example_keys(seed, batch), rates, batch["tokens"], batch["segment_ids"]
        )
        return {
            "tokens": tokens.astype(batch["tokens"].dtype),
            "diffusion_labels": batch["tokens"],
            "diffusion_weights": weights.astype(jnp.float32),
            "diffusion_text": text,
        }

    def rates(self, batch: Batch, seed: int) -> jax.Array:
        """The probability with which tokens of each row are masked: float32 [B], uniform from
        `least` to 1 over an epoch, and evenly spread over any stretch of examples."""

        def one(epoch, example_id):
            start = jax.random.uniform(jax.random.fold_in(seed_key(seed), epoch.astype(jnp.uint32)))
            # 2**32 / golden ratio, modulo 2**32: the low word's multiples fill the circle evenly.
            turn = example_id[1] * jnp.uint32(round(2**32 * GOLDEN))
            turn += example_id[0] * jnp.uint32(0x85EBCA6B)
            return (start + turn.astype(jnp.float32) / 2.0**32) % 1.0

        share = jax.vmap(one)(batch["epoch"], batch["example_id"])
        return self.least + (1 - self.least) * share

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of tokens that may be masked."""
        return {NAME: jnp.sum(batch["diffusion_text"])}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Weighted cross entropy of the masked tokens."""
        weights, labels = batch["diffusion_weights"], batch["diffusion_labels"]
        hidden = outputs["hidden"]
        loss, sums = slot_sums(model, params, "masked_lm", hidden, labels, weights, self.chunk)
        total = jnp.sum(batch["diffusion_text"])
        return Sums({NAME: loss}, {f"nll/{NAME}": shown(NAME, sums, total)[f"nll/{NAME}"]})
