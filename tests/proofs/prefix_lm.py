"""Prefix language modelling (Raffel et al., 2020): a row's beginning is seen whole, and what
follows is guessed token by token."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.keys import example_keys
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.ops.attention.pattern import Pattern

PATTERN = Pattern(causal=True, prefix=True)


@dataclass(frozen=True, kw_only=True)
class PrefixLm(CausalLm):
    name: Literal["prefix_lm_proof"] = "prefix_lm_proof"  # type: ignore[assignment]
    """The objective."""

    def check(self, model, vocabulary):
        """Any body will do: the pattern is that of the call."""

    def keeps_pooler(self, model):
        return False

    def corrupt(self, batch, seed, vocabulary):
        length = batch["tokens"].shape[1]
        cuts = jax.vmap(lambda key: jax.random.randint(key, (), 1, length))(
            example_keys(seed, batch)
        )
        prefix = jnp.arange(length)[None] < cuts[:, None]
        made = super().corrupt(batch, seed, vocabulary)
        guessed = ~jnp.concatenate([prefix[:, 1:], prefix[:, -1:]], axis=1)
        return {
            **made,
            "prefix": prefix.astype(jnp.int32),
            "next_weights": made["next_weights"] * guessed,
        }

    def forward(self, model, params, batch, key):
        return {"hidden": model.encode(params, batch, key, pattern=PATTERN)}
