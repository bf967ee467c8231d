"""The kernels that attention may run on, and what each of them takes.

A kernel is asked for a `Call` before it computes anything, and refuses what it has not: nothing
is computed in another way than was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxssl.core.errors import UserError
from jaxssl.ops.attention import xla
from jaxssl.ops.attention.pattern import Pattern, Tokens

KernelName = Literal["xla"]
"""`xla` runs everywhere."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a kernel is asked for, as far as it is known while tracing."""

    pattern: Pattern
    head_dim: int
    has_bias: bool = False
    has_dropout: bool = False
    has_positions: bool = False
    """Queries or keys are not in order from 0 on: they are in a cache."""


@dataclass(frozen=True)
class Kernel:
    """A way of computing attention.

    Attributes:
      attend: as `xla.attend`.
      lacks: what of a call it does not take, in words; None where it takes all.
    """

    attend: Callable[..., jax.Array]
    lacks: Callable[[Call], str | None]


def _nothing(call: Call) -> None:
    del call


KERNELS: dict[str, Kernel] = {"xla": Kernel(xla.attend, _nothing)}


def check_call(name: str, call: Call) -> None:
    """Refuses a call that a kernel does not take.

    Raises:
      UserError: says what it lacks, and which kernels take the call.
    """
    lacking = KERNELS[name].lacks(call)
    if lacking is None:
        return
    able = [other for other, kernel in KERNELS.items() if kernel.lacks(call) is None]
    raise UserError(
        f"the attention kernel {name} cannot compute this model",
        where="model.attention",
        expected=f"one of {', '.join(able)}" if able else "a model without it",
        got=f"{name}, which takes no {lacking}",
        fix=f"set model.attention={able[0]}" if able else None,
    )


def attention(
    name: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pattern: Pattern,
    queries: Tokens,
    keys: Tokens,
    *,
    bias: jax.Array | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """Attention of q [B, T, N, D] to k, v [B, S, K, D], by the kernel of this name: [B, T, N, D].

    Raises:
      UserError: the kernel does not take this.
    """
    call = Call(
        pattern=pattern,
        head_dim=q.shape[-1],
        has_bias=bias is not None,
        has_dropout=dropout_rate > 0 and dropout_key is not None,
        has_positions=queries.positions is not None or keys.positions is not None,
    )
    check_call(name, call)
    given = {"bias": bias, "dropout_rate": dropout_rate, "dropout_key": dropout_key, **options}
    return KERNELS[name].attend(q, k, v, pattern, queries, keys, **given)
