"""Masked spans and the span boundary objective (SpanBERT, Joshi et al., 2020).

Each masked token is guessed twice: from its own hidden state, and from those of the two tokens
around its span and its place in the span. Source: facebookresearch/SpanBERT,
pretraining/fairseq/criterions/spanbert_loss.py and models/pair_bert.py.

Departures: both losses are divided by the tokens that they guess (there each worker divides the
second by one more); random replacements are uniform over the vocabulary (there by frequency).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.boundary_head import SpanBoundaryHead
from jaxssl.models.heads import MASKED_LM, Head
from jaxssl.models.model import Model
from jaxssl.objectives.base import Loss, Outputs, Sums
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masking.counts import Rounding
from jaxssl.objectives.masking.spans import Spans
from jaxssl.objectives.masking.units import Units
from jaxssl.objectives.slots import gathered, shown, slot_sums

NAME = "span_boundary"


@dataclass(frozen=True, kw_only=True)
class SpanBoundary(MaskedLm):
    """Guess masked spans, each token also from the span's two neighbours alone."""

    name: Literal["span_boundary"] = "span_boundary"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    units: Units = Spans()
    """What is chosen as a whole."""
    rounding: Rounding = "up"
    """Of the number of tokens to choose."""
    counts_specials: bool = False
    """Whether special tokens count for the number to choose; they are never chosen."""
    replaces_units: bool = True
    """Whether all tokens of a span are masked, replaced or kept together."""
    boundary_weight: float = 1.0
    """Factor of the second loss."""
    longest_span: int = 15
    """Tokens of a span that are guessed from its neighbours, from its start."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "boundary_weight")
        check_at_least(1, self, "longest_span")

    @property
    def boundary_head(self) -> SpanBoundaryHead:
        """The head of the second loss."""
        return SpanBoundaryHead(name=NAME, longest=self.longest_span)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The masked language model's, and that over a span's neighbours."""
        return (MASKED_LM, self.boundary_head)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each guessed token, and for each that was guessed from the neighbours."""
        own = Loss(self.boundary_weight, per_token=True, shown="span boundary")
        return {**super().losses, NAME: own}

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Adds `span_left`, `span_right`, `span_offset` int32 [B, P] and `span_weights` float32
        [B, P] of the masked slots. A span at the end of its text has one neighbour, and counts not.
        """
        made = super().corrupt(batch, seed, vocabulary)
        reserved = jnp.asarray(vocabulary.reserved)

        def row(tokens, segments, positions, weights):
            T = tokens.shape[0]
            chosen = (
                jnp.zeros(T, bool).at[jnp.where(weights > 0, positions, T)].set(True, mode="drop")
            )
            text = jnp.where(jnp.isin(tokens, reserved), 0, segments)
            left, right = _ends(chosen, segments)
            whole = (left >= 0) & (right < T)
            there = jnp.clip(jnp.stack([left, right]), 0, T - 1)
            whole &= (text[there[0]] == segments) & (text[there[1]] == segments)
            offset = jnp.arange(T) - left - 1
            counts = whole & (offset < self.longest_span)
            at = (there[0][positions], there[1][positions], offset[positions], counts[positions])
            return *at[:2], jnp.clip(at[2], 0, self.longest_span - 1), at[3] * weights

        names = ("span_left", "span_right", "span_offset", "span_weights")
        found = jax.vmap(row)(
            batch["tokens"], batch["segment_ids"], made["mask_positions"], made["mask_weights"]
        )
        return {**made, **dict(zip(names, found))}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of chosen tokens, and of those in spans with two neighbours."""
        return {**super().weights(batch), NAME: jnp.sum(batch["span_weights"])}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Both cross entropies."""
        made = super().sums(model, params, outputs, batch, key)
        hidden = outputs["hidden"]
        ends = {
            "left": gathered(hidden, batch["span_left"]),
            "right": gathered(hidden, batch["span_right"]),
        }
        loss, sums = slot_sums(
            model,
            params,
            NAME,
            ends,
            batch["mask_labels"],
            batch["span_weights"],
            self.chunk,
            {"offset": batch["span_offset"]},
        )
        more = shown(NAME, sums, jnp.sum(batch["span_weights"]))
        return Sums({**made.losses, NAME: loss}, {**made.metrics, **more})


def _ends(chosen: jax.Array, segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """For each place the nearest place before it and behind it that is not of its span: int32 [T].

    A span ends where its document does.
    """
    T = chosen.shape[0]
    index = jnp.arange(T)
    opens = ~chosen | jnp.concatenate([jnp.zeros(1, bool), segments[1:] != segments[:-1]])
    closes = ~chosen | jnp.concatenate([segments[1:] != segments[:-1], jnp.zeros(1, bool)])
    # A chosen token that begins a document has the place before it as its left end.
    before = jnp.where(~chosen, index, jnp.where(opens, index - 1, -1))
    behind = jnp.where(~chosen, index, jnp.where(closes, index + 1, T))
    left = jax.lax.cummax(before)
    right = jax.lax.cummin(behind, reverse=True)
    return left, right
