"""Which dtype holds what: parameters, arithmetic, gradient reductions."""

from dataclasses import dataclass
from typing import Literal

Float = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The declared dtypes of a run. They are printed at start and never chosen silently."""

    parameters: Float = "float32"
    """Dtype of the parameters and of the optimizer's moments."""
    compute: Float = "float32"
    """Dtype of matrix products and activations. Norms, softmax and losses are float32 at least."""
    reduce: Float = "float32"
    """Dtype in which weight gradients are summed, over tokens, microbatches and devices."""
