"""Bottleneck adapters: a narrow layer after, or beside, attention and the feed-forward layer.

f(z) = Up activation(Down z), to which the sublayer's output h is added: h + s f(h) in sequence
(Houlsby et al., 2019; after the feed-forward layer alone: Pfeiffer et al., 2021), h + s f(x) beside
it, x being what the sublayer reads (He et al., 2022). Up begins as zero: at first nothing changes.

Between norm and residual; the norms of the block stay where they are, before the sublayer or after
the residual. `adapters` puts Pfeiffer's behind a second pass through the block's norm, which blocks
with their norm before the sublayer do not have: this is Houlsby's place in both.
"""

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
class Bottleneck(Method):
    """A narrow layer after or beside each sublayer."""

    name: Literal["bottleneck"] = "bottleneck"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    reduction: float = 16.0
    """The hidden size over the width of the narrow layer."""
    after: tuple[Literal["attention", "cross_attention", "feed_forward"], ...] = SUBLAYERS
    """Which sublayers are changed: all as in Houlsby's, [feed_forward] as in Pfeiffer's."""
    place: Literal["sequential", "parallel"] = "sequential"
    """Whether the narrow layer reads what the sublayer gives, or what it is given."""
    activation: Activation = "relu"
    """Between the two projections."""
    scale: float = 1.0
    """Of what is added; 4 in He et al.'s parallel adapters."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "reduction")
        check_above_zero(self, "scale")
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
        if not is_target(site.path, self.after):
            return h
        width, p = h.shape[-1], site.parameter
        narrow, zeros = max(1, round(width / self.reduction)), initializers.zeros
        drawn = initializers.he_uniform()
        down, up = (
            p("down", drawn, ("embed", None), (width, narrow)),
            p("up", zeros, (None, "embed"), (narrow, width)),
        )
        down_bias, up_bias = (
            p("down_bias", zeros, (None,), (narrow,)),
            p("up_bias", zeros, (None,), (width,)),
        )
        read = h if self.place == "sequential" else x
        inner = ACTIVATIONS[self.activation](product(site, read, down, 1) + down_bias)
        return h + self.scale * (product(site, inner, up, 1) + up_bias)
