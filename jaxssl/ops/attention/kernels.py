"""The kernels that attention may run on, and what each of them takes.

A kernel is asked for a `Call` before it computes anything, and refuses what it has not: nothing
is computed in another way than was asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax

from jaxssl.core.errors import UserError
from jaxssl.core.precision import Precision
from jaxssl.ops.attention import xla
from jaxssl.ops.attention.operands import NO_DROPOUT, Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern

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

    attend: Callable[[Operands, Pattern, Precision, WeightDropout], jax.Array]
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
    operands: Operands,
    pattern: Pattern,
    precision: Precision,
    weight_dropout: WeightDropout = NO_DROPOUT,
) -> jax.Array:
    """Attention by the kernel of this name: [B, T, N, D].

    Raises:
      UserError: the kernel does not take this.
    """
    tokens = (operands.queries, operands.keys)
    call = Call(
        pattern=pattern,
        head_dim=operands.q.shape[-1],
        has_bias=operands.bias is not None,
        has_dropout=weight_dropout.is_on,
        has_positions=any(each.positions is not None for each in tokens),
    )
    check_call(name, call)
    return KERNELS[name].attend(operands, pattern, precision, weight_dropout)
