"""Prefix language modelling (Raffel et al., 2020), and UL2's S-denoiser (Tay et al., 2022).

The beginning of each document is seen whole, by all of its tokens; what follows is guessed token by
token. With `target_share` a number it is UL2's sequential denoising: one span at the end, a quarter
of the document. Departure: no mode token stands before a document.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.ops.attention.pattern import Pattern

PATTERN = Pattern(causal=True, prefix=True)


def check_sees_ahead(model: ModelConfig, fix: str) -> None:
    """Refuses a decoder of T5's where tokens see what follows them: all that is ahead is at one
    distance for it.

    Raises:
      UserError: says what to do.
    """
    relative = model.self_attention().relative
    if relative is not None and not relative.both_ways:
        raise UserError(
            "this stack cannot tell how far ahead a token is",
            where="model.part",
            expected="encoder, where tokens see what follows them",
            got="decoder, whose distances are those to what came before",
            fix=fix,
        )


@dataclass(frozen=True, kw_only=True)
class PrefixLm(CausalLm):
    """Predict the next token behind a prefix that is seen from both sides. Any body will do."""

    name: Literal["prefix_lm"] = "prefix_lm"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    target_share: float | None = None
    """Share of each document that is guessed, its end; null draws the place of the cut, each as
    likely."""

    def __post_init__(self):
        super().__post_init__()
        if self.target_share is not None and not 0 < self.target_share < 1:
            raise UserError(
                "not a share of a document",
                where="target_share",
                expected="above 0 and below 1, or null",
                got=self.target_share,
            )

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """What a token sees is that of the call, so one stack of any kind will do."""
        if model.encoder_decoder:
            raise UserError(
                "a model of two stacks reads the prefix with one and writes with the other",
                where="objective.name",
                expected="continuation",
                got=self.name,
                fix="set objective.name=continuation, or take one stack: model.part=encoder",
            )
        check_sees_ahead(model, fix="set model.part=encoder")

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: every token counts."""
        return False

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """As for the next token; adds `prefix` int32 [B, T], and the prefix has no loss."""
        made = super().corrupt(batch, seed, vocabulary)

        def row(key, segments, positions):
            T = segments.shape[0]
            lengths = jnp.zeros(T + 1, jnp.int32).at[segments].add(1)
            if self.target_share is None:
                share = jax.random.uniform(key, (T + 1,))
                cut = 1 + jnp.floor(share * (lengths - 1)).astype(jnp.int32)
            else:
                cut = lengths - jnp.round(lengths * self.target_share).astype(jnp.int32)
            cut = jnp.clip(cut, 1, jnp.maximum(lengths - 1, 1))
            return (positions < cut[segments]) & (segments > 0)

        keys = example_keys(seed, batch)
        prefix = jax.vmap(row)(keys, batch["segment_ids"], batch["positions"])
        following = jnp.concatenate([prefix[:, 1:], jnp.zeros_like(prefix[:, :1])], axis=1)
        return {
            **made,
            "prefix": prefix.astype(jnp.int32),
            "next_weights": made["next_weights"] * ~following,
        }

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """Hidden states, of which those of a prefix see all of it."""
        return {"hidden": model.encode(params, batch, key, PATTERN)}
