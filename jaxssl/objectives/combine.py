"""A weighted sum of objectives is an objective."""

from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Sums
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence


@dataclass(frozen=True, kw_only=True)
class Term:
    """One objective and its factor."""

    objective: MaskedLm | NextSentence | CausalLm
    """The objective."""
    weight: float = 1.0
    """Its factor in the total loss."""

    def __post_init__(self):
        check_at_least(0, self, "weight")


@dataclass(frozen=True, kw_only=True)
class Combine:
    """A weighted sum over one shared forward pass: batches are corrupted by each term in turn."""

    name: Literal["combine"] = "combine"
    """The objective."""
    terms: tuple[Term, ...]
    """The objectives, in the order in which they change the batch."""

    def __post_init__(self):
        names = [term.objective.name for term in self.terms]
        if not names or len(set(names)) < len(names):
            raise UserError(
                "the terms of a combination must be different objectives, at least one",
                where="terms",
                expected="each objective once",
                got=names,
            )

    @property
    def heads(self) -> tuple[Head, ...]:
        """All terms' heads."""
        return tuple(head for term in self.terms for head in term.objective.heads)

    @property
    def coefficients(self) -> dict[str, float]:
        """Each loss by its term's factor."""
        return {
            name: term.weight * factor
            for term in self.terms
            for name, factor in term.objective.coefficients.items()
        }

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """What each term refuses."""
        for term in self.terms:
            term.objective.check(model, vocabulary)

    def check_rows(self, rows: Batch) -> None:
        """What each term refuses."""
        for term in self.terms:
            term.objective.check_rows(rows)

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Each term's corruption, in order."""
        for term in self.terms:
            batch = term.objective.corrupt(batch, seed, vocabulary)
        return dict(batch)

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """All terms' weights."""
        return {
            name: weight
            for term in self.terms
            for name, weight in term.objective.weights(batch).items()
        }

    def sums(
        self,
        model: Model,
        params: Params,
        hidden: jax.Array,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """All terms' sums."""
        parts = [term.objective.sums(model, params, hidden, batch, key) for term in self.terms]
        return Sums(
            {name: loss for part in parts for name, loss in part.losses.items()},
            {name: metric for part in parts for name, metric in part.metrics.items()},
        )


ObjectiveConfig = MaskedLm | NextSentence | CausalLm | Combine
