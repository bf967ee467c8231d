"""Bottleneck adapters: a narrow layer after, or beside, attention and the feed-forward layer.

f(z) = Up activation(Down z), to which the sublayer's output h is added: h + s f(h) in sequence
(Houlsby et al., 2019; after the feed-forward layer alone: Pfeiffer et al., 2021), h + s f(x) beside
it, x being what the sublayer reads (He et al., 2022). Up begins as zero: at first nothing changes.

Between norm and residual; the norms of the block stay where they are, before the sublayer or after
the residual. `adapters` puts Pfeiffer's behind a second pass through the block's norm, which blocks
with their norm before the sublayer do not have: this is Houlsby's place in both.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import jax
from jax.nn import initializers

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.models.adapters import Compute, Site
from jaxssl.ops.activations import ACTIVATIONS, Activation
from jaxssl.transfer.peft.base import Method, is_target, product

SUBLAYERS = ("attention", "cross_attention", "feed_forward")


@dataclass(frozen=True, kw_only=True)
class Narrow(Method, ABC):
    """What narrow layers after or beside sublayers have in common, whatever their projections."""

    reduction: float
    """The hidden size over the width of the narrow layer."""
    after: tuple[Literal["attention", "cross_attention", "feed_forward"], ...] = SUBLAYERS
    """Which sublayers are changed: all as in Houlsby's, [feed_forward] as in Pfeiffer's."""
    place: Literal["sequential", "parallel"] = "sequential"
    """Whether the narrow layer reads what the sublayer gives, or what it is given."""
    activation: Activation
    """Between the two projections."""
    scale: float = 1.0
    """Of what is added; 4 in He et al.'s parallel adapters."""
    weight: float = 1.0
    """Of what is added, too: a run's own, also of an adapter that was trained elsewhere."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "reduction")
        check_above_zero(self, "scale", "weight")
        if not self.after or len({*self.after}) < len(self.after):
            raise UserError(
                "not a choice of sublayers",
                where="after",
                expected=f"some of {', '.join(SUBLAYERS)}, each once",
                got=list(self.after),
            )

    def sublayer(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """h + s f(h), or h + s f(x)."""
        h = compute(x)
        return h + self.change(site, h, x) if self.is_at(site.path) else h

    def is_at(self, path: str) -> bool:
        """Whether a sublayer is changed."""
        return is_target(path, self.after)

    def change(self, site: Site, h: jax.Array, x: jax.Array) -> jax.Array:
        """What is added to the output h of a sublayer that reads x."""
        width, read = h.shape[-1], h if self.place == "sequential" else x
        down = self.project(site, "down", read, self.narrow(width))
        up = self.project(site, "up", ACTIVATIONS[self.activation](down), width)
        return self.weight * self.scale * up

    def narrow(self, width: int) -> int:
        """The size of the narrow layer."""
        return max(1, round(width / self.reduction))

    @abstractmethod
    def project(self, site: Site, name: str, x: jax.Array, size: int) -> jax.Array:
        """`down` or `up`: [B, T, in] to [B, T, size]. `up` gives zero at first."""


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Narrow):
    """A narrow layer after or beside each sublayer."""

    name: Literal["bottleneck"] = "bottleneck"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    reduction: float = 16.0
    """The hidden size over the width of the narrow layer."""
    activation: Activation = "relu"
    """Between the two projections."""

    def project(self, site: Site, name: str, x: jax.Array, size: int) -> jax.Array:
        """x W + b."""
        drawn, axes = initializers.he_uniform(), ("embed", None)
        if name == "up":
            drawn, axes = initializers.zeros, (None, "embed")
        kernel = site.parameter(name, drawn, axes, (x.shape[-1], size))
        bias = site.parameter(f"{name}_bias", initializers.zeros, (None,), (size,))
        return product(site, x, kernel, 1) + bias
