"""Holding a fine-tuned model near what it was, L2-SP and mixout; and what draws adapters' own
parameters somewhere.

The first two need the parameters that training began with. They are constants of the step, given to
it beside the state ("anchors"), and not in a checkpoint: they are read from the base again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.core.upcast import upcast
from jaxssl.models.adapters import Attached, pulled
from jaxssl.ops.dropout import hash_bits


@dataclass(frozen=True, kw_only=True)
class Regularization:
    """What keeps trained parameters near those that were restored."""

    l2_sp: float = 0.0
    """Alpha of L2-SP (Li et al., 2018): alpha / 2 * |w - w0|^2 over the restored parameters that
    are trained. 0.01 to 1, with optimizer.weight_decay=0."""
    l2_sp_fresh: float = 0.0
    """Its beta: beta / 2 * |w|^2 over the parameters that started fresh, as the heads did."""
    mixout: float = 0.0
    """Mixout (Lee et al., 2020): the share of each restored kernel's elements that a training step
    takes from the start, drawn anew each step. 0.7 to 0.9, instead of dropout."""

    def __post_init__(self):
        check_at_least(0, self, "l2_sp", "l2_sp_fresh")
        check_share(self, "mixout")

    @property
    def needs_anchors(self) -> bool:
        """Whether it needs the values that parameters started from."""
        return bool(self.l2_sp or self.l2_sp_fresh or self.mixout)

    @property
    def is_penalty(self) -> bool:
        """Whether it adds to the gradient."""
        return bool(self.l2_sp or self.l2_sp_fresh)


NONE = Regularization()


def penalty_gradient(
    config: Regularization, params: Params, anchors: Params, adapters: Sequence[Attached] = ()
) -> tuple[jax.Array, Params] | None:
    """The penalty of L2-SP and of what adapters draw, float32 [], and its gradient by `params`;
    None where there is none.

    Args:
      anchors: what those of `params` that were restored started from.
    """
    known, flat = flatten(anchors), flatten(params)
    pulls: dict[str, list[tuple[float, jax.Array]]] = {path: [] for path in flat}
    for path, value in flat.items():
        wide = upcast(value)
        if config.is_penalty and path in known:
            pulls[path].append((config.l2_sp, wide - upcast(known[path])))
        elif config.is_penalty:
            pulls[path].append((config.l2_sp_fresh, wide))
        if (own := pulled(adapters, path, wide)) is not None:
            pulls[path].append(own)
    found = [each for given in pulls.values() for each in given]
    if not found:
        return None
    penalty = sum((f / 2 * jnp.sum(jnp.square(x)) for f, x in found), jnp.zeros([]))
    zero = {path: jnp.zeros(x.shape, upcast(x).dtype) for path, x in flat.items()}
    return penalty, unflatten({p: sum((f * x for f, x in pulls[p]), zero[p]) for p in flat})


def mix_out(params: Params, anchors: Mapping[str, Any], rate: float, key: jax.Array) -> Params:
    """`params` with mixout on each kernel that has an anchor.

    Of a kernel w with anchor u and a mask m that is 1 with probability p: (m u + (1 - m) w - p u) /
    (1 - p), whose mean over masks is w (Lee et al., 2020, equation 2).
    """
    known = flatten(anchors)

    def mixed(number: int, path: str, w: jax.Array) -> jax.Array:
        if path not in known or path.rpartition("/")[2] != "kernel":
            return w
        u = known[path].astype(w.dtype)
        bits = hash_bits(jax.random.fold_in(key, number), w.shape)
        taken = jnp.where(bits < jnp.uint32(round(rate * 2**32)), u, w)
        return ((taken - rate * u) / (1 - rate)).astype(w.dtype)

    leaves = flatten(params)
    return unflatten({p: mixed(i, p, leaves[p]) for i, p in enumerate(sorted(leaves))})
