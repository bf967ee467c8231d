"""Replaced token detection (ELECTRA, Clark et al., 2020): a small generator fills masks, and the
main network says of each token whether it is the original one."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.keys import example_keys
from jaxssl.models.heads import MASKED_LM, LabelHead
from jaxssl.models.network import Network, Tie
from jaxssl.objectives.base import Loss, Sums
from jaxssl.objectives.masked_lm import MaskedLm

TOKENS = "embeddings/tokens"
SAMPLES = 1 << 24
"""What the run's seed is folded with for the generator's samples."""


@dataclass(frozen=True, kw_only=True)
class Electra(MaskedLm):
    name: Literal["electra_proof"] = "electra_proof"  # type: ignore[assignment]
    """The objective."""
    generator_layers: int = 1
    """Layers of the generator."""
    table: Literal["own", "shared", "stopped"] = "own"
    """The generator's token embedding: its own, the discriminator's, or the discriminator borrows
    the generator's behind a stop_gradient."""
    discriminator_weight: float = 50.0
    """Factor of the discriminator's loss."""

    @property
    def heads(self):
        return (LabelHead(name="replaced", size=1),)

    @property
    def losses(self) -> Mapping[str, Loss]:
        return {**super().losses, "replaced": Loss(self.discriminator_weight)}

    def networks(self, model):
        config = dataclasses.replace(model, num_layers=self.generator_layers, pooler=False)
        ties = (Tie(TOKENS, TOKENS),) if self.table == "shared" else ()
        own = {"generator": Network(config, (MASKED_LM,), ties)}
        if self.table == "stopped":
            own[""] = Network(ties=(Tie(TOKENS, f"generator/{TOKENS}", stop_gradient=True),))
        return own

    def keeps_pooler(self, model):
        return False

    def corrupt(self, batch, seed, vocabulary) -> dict[str, Any]:
        keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys(seed, batch), SAMPLES)
        masked = super().corrupt(batch, seed, vocabulary)
        return {**masked, "original": batch["tokens"], "sample": jax.random.key_data(keys)}

    def weights(self, batch):
        return {**super().weights(batch), "replaced": jnp.sum(batch["segment_ids"] > 0)}

    def forward(self, model, params, batch, key):
        generator = model.network("generator")
        guesses = generator.encode(params, batch, key)
        fake = self.sampled(generator, params, guesses, batch)
        return {
            "guesses": guesses,
            "fake": fake,
            "hidden": model.encode(params, {**batch, "tokens": fake}, key),
        }

    def sampled(self, generator, params, hidden, batch):
        """The batch's tokens, those that were masked as the generator guesses them. No gradient
        flows through it."""
        positions = batch["mask_positions"]
        at = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        logits = jax.lax.stop_gradient(generator.head(params, "masked_lm", at))
        draw = lambda key, row: jax.random.categorical(jax.random.wrap_key_data(key), row)
        drawn = jax.vmap(draw)(batch["sample"], logits)
        rows, length = jnp.arange(len(positions))[:, None], hidden.shape[1]
        where = jnp.where(batch["mask_weights"] > 0, positions, length)
        drawn = drawn.astype(batch["tokens"].dtype)
        return batch["original"].at[rows, where].set(drawn, mode="drop")

    def sums(self, model, params, outputs, batch, key=None) -> Sums:
        generator = model.network("generator")
        made = super().sums(generator, params, {"hidden": outputs["guesses"]}, batch, key)
        score = model.head(params, "replaced", outputs["hidden"], key)[..., 0]
        real = (batch["segment_ids"] > 0).astype(score.dtype)
        is_fake = (outputs["fake"] != batch["original"]).astype(score.dtype)
        each = jnp.logaddexp(0.0, score) - score * is_fake
        right = jnp.sum(((score > 0) == (is_fake > 0)) * real)
        loss, weight = jnp.sum(each * real), jnp.sum(real)
        more = {"nll/replaced": (loss, weight), "accuracy/replaced": (right, weight)}
        return Sums({**made.losses, "replaced": loss}, {**made.metrics, **more})
