"""Compacter (Karimi Mahabadi et al., 2021): bottlenecks whose two projections are sums of Kronecker
products of small matrices.

W = sum over n of A_i (x) (S_i T_i): A_i [n, n], which the layers have in common, S_i [in/n, R] and
T_i [R, out/n] are each projection's own. T of Up begins as zero: at first nothing changes. With
`after: [feed_forward]` it is Compacter++.

Shapes: N the dimension, R the rank.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.models.adapters import Shared, Site
from jaxssl.models.model import ModelConfig
from jaxssl.ops.activations import Activation
from jaxssl.transfer.peft.base import product
from jaxssl.transfer.peft.bottleneck import Narrow

RULE = initializers.normal(0.01)
"""What A begins as, in the authors' code."""


@dataclass(frozen=True, kw_only=True)
class Compacter(Narrow):
    """A narrow layer of few parameters after or beside each sublayer."""

    name: Literal["compacter"] = "compacter"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    reduction: float = 32.0
    """The hidden size over the width of the narrow layer, which is made a multiple of
    `dimension`."""
    activation: Activation = "gelu"
    """Between the two projections."""
    dimension: int = 4
    """How many products are summed, and the size of the first matrix of each. It must divide the
    hidden size."""
    rank: int = 1
    """Of the second matrix of each product."""
    shared: bool = True
    """Have the first matrices in common, in all layers and both projections."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "dimension", "rank")

    def check(self, model: ModelConfig) -> None:
        """Refuses a hidden size that the dimension does not divide."""
        if model.hidden_size % self.dimension:
            raise UserError(
                "the hidden size is no multiple of the dimension of the products",
                where="dimension",
                expected=f"a divisor of model.hidden_size={model.hidden_size}",
                got=self.dimension,
            )

    def narrow(self, width: int) -> int:
        """The size of the narrow layer."""
        return self.dimension * max(1, round(width / self.reduction / self.dimension))

    def in_common(self, adapter: str) -> Shared:
        """The first matrices [N, N, N]."""
        return {f"{adapter}_rule": (RULE, (self.dimension,) * 3)} if self.shared else {}

    def project(self, site: Site, name: str, x: jax.Array, size: int) -> jax.Array:
        """x W + b."""
        n, p, width = self.dimension, site.parameter, x.shape[-1]
        drawn, none = initializers.glorot_normal(batch_axis=0), (None,) * 3
        last = initializers.zeros if name == "up" else drawn
        left = p(f"{name}_left", drawn, none, (n, width // n, self.rank))
        right = p(f"{name}_right", last, none, (n, self.rank, size // n))
        bias = p(f"{name}_bias", initializers.zeros, (None,), (size,))
        rule = (
            site.shared_parameter("rule")
            if self.shared
            else p(f"{name}_rule", RULE, none, (n,) * 3)
        )
        whole = jax.vmap(_whole) if site.is_by_row else _whole
        return product(site, x, whole(rule, left, right), 1) + bias


def _whole(rule: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    """The sum of Kronecker products [in, out]."""
    second = jnp.einsum("ipr,irq->ipq", left, right, precision="highest")
    whole = jnp.einsum("iac,ipq->apcq", rule, second, precision="highest")
    return whole.reshape(left.shape[0] * left.shape[1], -1)
