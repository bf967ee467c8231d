"""Which dtype holds what: parameters, arithmetic, gradient reductions."""

from dataclasses import dataclass
from typing import Literal

Float = Literal["float32", "bfloat16"]
Codes = Literal["int8", "int4", "nf4"]


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
    matmul: Literal["highest", "default"] = "highest"
    """How exactly float32 matrix products are computed. Accelerators left to themselves round their
    operands, TPUs to bfloat16 and NVIDIA GPUs to TF32: `default` allows that and is several times
    faster there, `highest` does not. Nothing is changed by it on a CPU, nor in bfloat16."""
    reduce: Float = "float32"
    """Dtype in which gradients of kernels and biases are summed over tokens and devices. Those of
    embeddings and norms are summed in the parameters' dtype, microbatches and chunks of a loss in
    float32 at least."""
    frozen: Codes | None = None
    """What the frozen kernels of the layers are held as, where a base has them: int8, int4 or nf4
    (the 16 quantiles of a normal distribution), 64 values with a scale in common. They are decoded
    in each product, forward and backward. Null leaves them in the dtype of parameters."""

    @property
    def products(self) -> Literal["highest", "default"]:
        """The `precision` that every matrix product asks XLA for."""
        return "default" if self.compute == "bfloat16" else self.matmul

    @property
    def summary(self) -> str:
        """What is told of it at the start of a run."""
        exactness = f" (matrix products: {self.matmul})" if self.compute != "bfloat16" else ""
        return (
            f"precision: parameters {self.parameters}, compute {self.compute}{exactness}, "
            f"reductions {self.reduce}" + (f", frozen kernels {self.frozen}" if self.frozen else "")
        )
