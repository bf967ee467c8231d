"""IA3 (Liu et al., 2022): keys, values and the inner activations of the feed-forward layer are
scaled, each element by a learnt factor that begins as one.

As PEFT has it: of `targets` the output is scaled, bias included, of `inputs` what is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.nn import initializers

from jaxssl.core.errors import UserError
from jaxssl.models.adapters import Compute, Site
from jaxssl.transfer.peft.base import Arrays, Method, check_targets, is_target

ONES = initializers.ones


@dataclass(frozen=True, kw_only=True)
class Ia3(Method):
    """A factor for each element of some activations."""

    name: Literal["ia3"] = "ia3"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The method."""
    targets: tuple[str, ...] = ("key", "value")
    """Projections whose outputs are scaled; names as those of lora."""
    inputs: tuple[str, ...] = ("down",)
    """Projections whose inputs are scaled."""
    learning_rate_factor: float = 30.0
    """Its learning rate over `optimizer.learning_rate`, which is meant for training everything."""

    def __post_init__(self):
        super().__post_init__()
        check_targets((*self.targets, *self.inputs), "targets, inputs")

    @property
    def wanted(self) -> Sequence[str]:
        """Both kinds."""
        return (*self.targets, *self.inputs)

    def projection(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """factor * (W x + b), or W (factor * x) + b."""
        module = site.module
        if is_target(site.path, self.inputs):
            shape, axes = x.shape[x.ndim - module.num_in :], module.axes[: module.num_in]
            x = x * site.parameter("in_factor", ONES, axes, shape)
        y = compute(x)
        if is_target(site.path, self.targets):
            axes = module.axes[module.num_in :]
            y = y * _by_token(site, site.parameter("factor", ONES, axes, module.features))
        return y

    def merge(self, path: str, own: Arrays, added: Arrays) -> dict[str, jax.Array]:
        """Rows of the kernel times what is read by, columns and the bias by what is given."""
        new = dict(own)
        if "in_factor" in added:
            factor = added["in_factor"]
            more = new["kernel"].ndim - factor.ndim
            new["kernel"] = new["kernel"] * factor.reshape(*factor.shape, *(1,) * more)
        if "factor" in added:
            new = {name: x * added["factor"] for name, x in new.items()}
        return new

    def peft_config(self) -> dict[str, Any]:
        """As PEFT's IA3Config."""
        return {"peft_type": "IA3", "init_ia3_weights": True}

    def peft_tensors(
        self, paths: Sequence[str], parts: Sequence[Arrays | None], sizes: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """The factors [out, 1], ones for a part that has none, or [1, in] of what is read."""
        (first, *others) = (part for part in parts if part is not None)
        if "in_factor" in first:
            if "factor" in first or others:
                raise UserError(
                    "PEFT scales what a projection reads or what it gives, not both",
                    where=f"peft, {paths[0]}",
                    expected="targets and inputs that do not overlap",
                    got=paths[0],
                )
            return {"ia3_l": np.asarray(first["in_factor"]).reshape(1, -1)}
        ones = [np.ones(size, np.float32) for size in sizes]
        found = [
            one if part is None else np.asarray(part["factor"]).reshape(-1)
            for one, part in zip(ones, parts)
        ]
        return {"ia3_l": np.concatenate(found)[:, None]}


def _by_token(site: Site, factor: jax.Array) -> jax.Array:
    """A factor of each row [B, N, D] as it meets [B, T, N, D]."""
    return factor[:, None] if site.is_by_row and factor.ndim == 3 else factor
