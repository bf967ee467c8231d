"""Which dtype holds what: parameters, arithmetic, gradient reductions."""

from dataclasses import dataclass
from typing import Literal

Float = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The declared dtypes of a run. They are printed at start and never chosen silently."""

    parameters: Float = "float32"
    """Dtype the parameters are kept in. In bfloat16 an update below 1/256 of a weight is lost: for
    parameters that are frozen, or where memory leaves no choice. Moments are float32 all the
    same."""
    compute: Float = "float32"
    """Dtype of matrix products and activations. Norms, softmax, logits and losses are float32 at
    least."""
    reduce: Float = "float32"
    """Dtype in which gradients of kernels and biases are summed over tokens and devices. Those of
    embeddings and norms are summed in the parameters' dtype, microbatches and chunks of a loss in
    float32 at least."""
