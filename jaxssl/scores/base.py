"""The contract of a score that recipes add to those of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Score(ABC):
    """A frozen dataclass whose fields are its settings."""

    lower_is_better: ClassVar[bool] = False
    """Whether less is better of its numbers."""

    name: str
    """What recipes call it, and what its numbers are called."""

    def check(self, task: Any) -> None:  # noqa: B027
        """Refuses a task whose predictions it does not read. Raises UserError."""

    @abstractmethod
    def numbers(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> Mapping[str, float]:
        """Its numbers over a whole split, on the host.

        Args:
          predictions: what the task's `predict` gives for each row, arrays [N, ...]: `logits`
            [N, K] of `classify`, `value` [N] of `regress`.
          references: what the task's `encode` says they are scored against: an array [N] of the
            numbers of labels, or of values.

        Returns:
          {"": its only number}, called NAME, or {part: number}, called NAME/part.
        """

    def named_numbers(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> dict[str, float]:
        """`numbers`, as a validation calls them."""
        found = self.numbers(predictions, references)

        def called(part):
            return f"{self.name}/{part}" if part else self.name

        return {called(part): float(number) for part, number in found.items()}
