"""The contract of an objective.

A step corrupts its batch once (`corrupt`), counts what the losses will be divided by (`weights`),
encodes each microbatch and adds up sums (`sums`). The loss is `sum_n coefficient_n * sum_n /
weight_n`, divided by weights of the whole global batch, so that neither microbatches nor devices
change it.
"""

from typing import Any, NamedTuple, Protocol

import jax

from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import Head
from jaxssl.models.model import Model, ModelConfig


class Sums(NamedTuple):
    """What one microbatch adds.

    Attributes:
      losses: {loss name: summed loss}; differentiated.
      metrics: {metric name: (sum, weight)}; added up and divided at the very end.
    """

    losses: dict[str, jax.Array]
    metrics: dict[str, tuple[jax.Array, jax.Array]]


class Objective(Protocol):
    """A frozen dataclass with these pure functions; `jax.jit` may trace all but `check_*`."""

    @property
    def heads(self) -> tuple[Head, ...]:
        """The model heads it needs."""
        ...

    @property
    def coefficients(self) -> dict[str, float]:
        """{loss name: its factor in the total}."""
        ...

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """Refuses a model or tokenizer that it cannot train. Raises UserError."""
        ...

    def check_rows(self, rows: Batch) -> None:
        """Refuses numpy rows that would not fit its static shapes. Raises UserError."""
        ...

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """The batch with its inputs changed and its targets added; each row by its own key."""
        ...

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """{loss name: what its sum over this corrupted batch is divided by}."""
        ...

    def sums(
        self,
        model: Model,
        params: Params,
        hidden: jax.Array,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Sums over one microbatch, from hidden states [B, T, H]; `key` is for dropout in a head,
        None in evaluation."""
        ...


def total_loss(objective: Objective, losses: dict, weights: dict) -> jax.Array:
    """The number that is minimised; a loss without any weight counts as zero."""
    terms = [
        factor * losses[name] / jax.numpy.maximum(weights[name], 1e-9)
        for name, factor in objective.coefficients.items()
    ]
    return sum(terms[1:], terms[0])
