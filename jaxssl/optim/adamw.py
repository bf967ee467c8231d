"""AdamW, with or without bias correction."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxssl.core.bounds import check_above_zero, check_share
from jaxssl.core.precision import Float
from jaxssl.optim.base import Optimizer


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment."""
    bias_correction: bool = True
    """Divide the moments by 1 - b^t. The original BERT did not."""
    moment_dtype: Float | None = None
    """Dtype of the first moment; null is float32, as the second's always is."""

    def __post_init__(self):
        super().__post_init__()
        check_share(self, "b1", "b2")
        check_above_zero(self, "epsilon")

    def direction(self) -> optax.GradientTransformation:
        adam = optax.scale_by_adam if self.bias_correction else scale_by_adam_uncorrected
        return adam(b1=self.b1, b2=self.b2, eps=self.epsilon, mu_dtype=self.moment_dtype)


def scale_by_adam_uncorrected(
    b1: float, b2: float, eps: float, mu_dtype: Any = None
) -> optax.GradientTransformation:
    """Adam's direction m / (sqrt(v) + eps) without bias correction (google-research/bert,
    optimization.py)."""

    def init(params):
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, optax.tree.zeros_like(params))

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        mu = optax.tree.cast(mu, mu_dtype)
        return updates, optax.ScaleByAdamState(state.count + 1, mu, nu)

    return optax.GradientTransformation(init, update)
