"""The contract of a loss over the texts of a batch.

A new loss is one file, and a line in `registry.py`. Names and defaults are those that
sentence-transformers has for the same losses.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_above_zero, check_at_least

LEAST = 0.01
"""Of temperatures that are learnt: one over `ScaleHead`'s bound."""


class Texts(NamedTuple):
    """The texts of a batch, as a loss sees them.

    Attributes:
      vectors: [B, K, H], of each row's texts: the first, what belongs to it, and K - 2 that do not.
      keys: uint32 [B, K, 2], equal where texts are.
      real: float [B], 0 for rows of padding.
      counted: float [B], 0 also for rows that are there only to be told from.
      labels: float [B], how alike the first two are; None without.
      scale: what similarities are multiplied with.
    """

    vectors: jax.Array
    keys: jax.Array
    real: jax.Array
    counted: jax.Array
    labels: jax.Array | None
    scale: jax.Array | float


class Compared(NamedTuple):
    """What a loss makes of a batch.

    Attributes:
      loss: its sum.
      metrics: {name: (sum, weight)}.
    """

    loss: jax.Array
    metrics: dict[str, tuple[jax.Array, jax.Array]]


@dataclass(frozen=True, kw_only=True)
class Contrast(ABC):
    """A frozen dataclass whose fields are its settings."""

    reads_labels: ClassVar[bool] = False
    """Whether it needs a number for each pair of texts."""
    reads_negatives: ClassVar[bool] = False
    """Whether it needs a text that does not belong to the first."""
    reads_other_rows: ClassVar[bool] = False
    """Whether a row is told from the others of its batch."""

    name: str
    """The loss."""

    @property
    def scale(self) -> float | None:
        """What it multiplies similarities with; None for none."""
        return None

    @property
    def learns_scale(self) -> bool:
        """Whether that is learnt."""
        return False

    @property
    def compares_directions(self) -> bool:
        """Whether only the directions of vectors count: they then have length 1 for users."""
        return True

    def check_labels(self, labels: np.ndarray) -> None:  # noqa: B027
        """Refuses labels [N] that it cannot be trained on. Raises UserError."""

    def weight(self, counted: jax.Array) -> jax.Array:
        """What its sum over a batch is divided by: the number of rows."""
        return jnp.sum(counted)

    @abstractmethod
    def sums(self, texts: Texts) -> Compared:
        """The summed loss of a whole batch."""


@dataclass(frozen=True, kw_only=True)
class Scaled(Contrast):
    """Of losses over cosines that are divided by a temperature."""

    temperature: float = 0.05
    """What cosines are divided by: sentence-transformers' `scale` of 20 is 0.05."""
    learn_temperature: bool = False
    """Train it, from there on; it stays at 0.01 at least, as CLIP's."""

    def __post_init__(self):
        check_above_zero(self, "temperature")
        if self.learn_temperature:
            check_at_least(LEAST, self, "temperature")

    @property
    def scale(self) -> float:
        """One over the temperature."""
        return 1 / self.temperature

    @property
    def learns_scale(self) -> bool:
        """As it is told."""
        return self.learn_temperature
