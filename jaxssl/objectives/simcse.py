"""Unsupervised SimCSE (Gao et al., 2021): a text is told from the others of its batch by a second
pass over it, which differs in its dropout alone.

Source: princeton-nlp/SimCSE, simcse/models.py. Its settings are `pooling: cls`, `projection: true`
and dropout 0.1. Departures: texts that are there twice are no negatives of each other; gradients go
through the vectors of all devices (there those of other devices have none).

A validation has no dropout, so that both passes are one: the cosine of a text with itself is 1, and
the loss says how evenly the vectors are spread, and no more. `evaluation.best_by=auto` goes by it.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Vocabulary
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.contrast.objective import Contrasting, check_one_text, check_text_alone
from jaxssl.ops.texts import key_of_tokens


@dataclass(frozen=True, kw_only=True)
class SimCse(Contrasting):
    """Tell a text of a token store from the others by another pass over it."""

    name: Literal["simcse"] = "simcse"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""

    def __post_init__(self):
        super().__post_init__()
        check_text_alone(self.loss)

    def texts_of(self, batch: Batch) -> list[Batch]:
        """The text, twice."""
        return [batch, batch]

    def keys_of(self, batch: Batch) -> jax.Array:
        """Of the tokens."""
        key = key_of_tokens(batch)
        return jnp.stack([key, key], axis=1)

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """There must be something that two passes differ in."""
        super().check(model, vocabulary)
        check_dropout(model)

    def check_rows(self, rows: Batch) -> None:
        """Each row must be one text."""
        check_one_text(rows)


def check_dropout(model: ModelConfig) -> None:
    """Refuses a model that makes the same vector of a text each time.

    Raises:
      UserError: says so.
    """
    if not (model.dropout or model.attention_dropout):
        raise UserError(
            "two passes over a text differ in their dropout, and the model has none",
            where="model.dropout",
            expected="above 0, 0.1 say",
            got=0,
        )
