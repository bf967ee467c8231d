"""Whether a classifier is right as often as it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.scores.base import Score


@dataclass(frozen=True, kw_only=True)
class Calibration(Score):
    """The expected calibration error (Guo et al., 2017, equation 3), of rows with one label."""

    lower_is_better: ClassVar[bool] = True

    name: Literal["calibration"] = "calibration"
    """The expected calibration error: |accuracy - mean probability| of the rows whose highest
    probability falls into a bin, averaged over bins by their rows."""
    bins: int = 15
    """Equal parts of 0 to 1."""

    def __post_init__(self):
        check_at_least(1, self, "bins")

    def check(self, task: Any) -> None:
        """It is of one label a row."""
        if task.name != "classify" or task.multi_label:
            raise UserError(
                "this score is of tasks that give a row one label of several",
                where="extra_scores",
                expected="classify, without multi_label",
                got=task.name,
            )

    def numbers(
        self, predictions: Mapping[str, np.ndarray], references: Any
    ) -> Mapping[str, float]:
        logits = predictions["logits"].astype(np.float64)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        right = (logits.argmax(axis=-1) == np.asarray(references)).astype(np.float64)
        highest = shares.max(axis=-1)
        # The bins are open below and closed above, as in the paper.
        place = np.clip(np.ceil(highest * self.bins).astype(int) - 1, 0, self.bins - 1)
        gaps = np.bincount(place, right - highest, minlength=self.bins)
        return {"": float(np.abs(gaps).sum() / len(right))}
