"""The cosine of two texts as the number that is asked for."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.objectives.contrast.base import Compared, Contrast, Texts
from jaxssl.ops.contrast import unit


@dataclass(frozen=True, kw_only=True)
class Cosine(Contrast):
    """The squared difference of the cosine of both texts and the label. Source:
    sentence-transformers, losses/cosine_similarity.py."""

    reads_labels: ClassVar[bool] = True

    name: Literal["cosine"] = "cosine"
    """The loss."""

    def check_labels(self, labels: np.ndarray) -> None:
        """They must be cosines."""
        if labels.min() < -1 or labels.max() > 1:
            raise UserError(
                "the labels are no cosines",
                where="objective.label_range",
                expected="numbers from -1 to 1",
                got=f"{labels.min():g} to {labels.max():g}",
                fix="say what their lowest and highest are, which become 0 and 1: "
                "objective.label_range=[0,5]; or take objective.loss.name=cosent, which goes by "
                "their order alone",
            )

    def sums(self, texts: Texts) -> Compared:
        """Summed over the rows."""
        assert texts.labels is not None
        vectors = unit(texts.vectors[:, :2])
        error = jnp.sum(vectors[:, 0] * vectors[:, 1], axis=-1) - texts.labels
        return Compared(jnp.sum(error * error * texts.counted), {})
