"""The kernels that attention may run on, and what each of them takes.

A kernel is asked for a `Call` before it computes anything, and refuses what it has not: nothing
is computed in another way than was asked for. `auto` takes the fastest that takes the call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax

from jaxssl.core.errors import UserError
from jaxssl.core.platform import gpu_generation
from jaxssl.core.precision import Precision
from jaxssl.ops.attention import cudnn, local, xla
from jaxssl.ops.attention.operands import Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern

KernelName = Literal["auto", "xla", "splash", "cudnn"]
"""`xla` runs everywhere, `splash` on TPUs, `cudnn` on NVIDIA GPUs. `auto` takes the fastest that
can do it."""
LANES = 128
"""Of a TPU: `splash` reads rows in multiples of it."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a kernel is asked for, as far as it is known while tracing.

    Attributes:
      lengths: of queries and keys, in tokens; empty before rows are known.
      shards: that the queries of a row lie in.
      is_float32: queries, keys and values are of float32 at least.
      is_exact: products of float32 must not be rounded.
      has_positions: queries or keys are not in order from 0 on: they are in a cache.
      gpu: see `gpu_generation`.
    """

    pattern: Pattern
    head_dim: int
    has_bias: bool = False
    has_dropout: bool = False
    has_positions: bool = False
    is_float32: bool = False
    is_exact: bool = False
    lengths: tuple[int, ...] = ()
    shards: int = 1
    gpu: tuple[int, int] | None = None


def _no_table(call: Call, num_heads: int, spec: Any) -> tuple[None, None]:
    del call, num_heads, spec
    return None, None


@dataclass(frozen=True)
class Kernel:
    """A way of computing attention.

    Attributes:
      attend: as `xla.attend`.
      lacks: what of a call it does not take, in words; None where it takes all.
      platforms: where it runs; empty is everywhere.
      is_local: it computes on one device: each gets its shard of rows, queries and heads.
      leaves_out: it computes nothing of keys that a pattern leaves out, so that queries in shards
        are shared out evenly before.
      table: what a local one looks up of a call for so many heads, as arrays, and how these lie on
        the mesh, given the PartitionSpec of heads and queries: `attend` is given it as `table`.
    """

    attend: Callable[..., jax.Array]
    lacks: Callable[[Call], str | None]
    platforms: tuple[str, ...] = ()
    is_local: bool = False
    leaves_out: bool = False
    table: Callable[[Call, int, Any], tuple[Any, Any]] = _no_table

    def refuses(self, call: Call, platform: str) -> str | None:
        """Why it cannot compute a call there, in words; None where it can."""
        if self.platforms and platform not in self.platforms:
            return f"it runs on {' and '.join(self.platforms)}, not on {platform}"
        lacking = self.lacks(call)
        return None if lacking is None else f"it takes no {lacking}"


def _nothing(call: Call) -> None:
    del call


def _splash_lacks(call: Call) -> str | None:
    pattern, lengths, shards = call.pattern, call.lengths, call.shards
    in_shards = f" in {shards} shards" if shards > 1 else ""
    lacking = {
        "bias on scores": call.has_bias,
        "dropout of attention's weights": call.has_dropout,
        "prefix that a row says": pattern.prefix,
        "keys of adapters before the row's": pattern.always > 0,
        "tokens of adapters before all segments": pattern.shared > 0,
        "exact float32 products": call.is_exact,
        f"rows of {lengths} tokens{in_shards}, no multiples of {LANES}": any(
            n % LANES for n in lengths
        )
        or any(n % (LANES * shards) for n in lengths[:1]),
        "keys of other rows than the queries' with a causal pattern": len({*lengths}) > 1
        and (pattern.causal or pattern.window is not None),
    }
    return next((what for what, is_lacking in lacking.items() if is_lacking), None)


def _cudnn_lacks(call: Call) -> str | None:
    pattern, lengths, width = call.pattern, call.lengths, call.head_dim
    in_shards = f" in {call.shards} shards" if call.shards > 1 else ""
    sees_both_sides = pattern.window is not None and not pattern.causal
    lacking = {
        "GPUs before Ampere, nor of other makers": call.gpu is not None and call.gpu < cudnn.OLDEST,
        "float32 operands (precision.compute=bfloat16 has others)": call.is_float32,
        "bias on scores": call.has_bias,
        "dropout of attention's weights": call.has_dropout,
        f"heads of width {width}, but multiples of {cudnn.MULTIPLE} up to {cudnn.WIDEST}": (
            width % cudnn.MULTIPLE > 0 or width > cudnn.WIDEST
        ),
        f"rows of {lengths} tokens{in_shards}, an odd number": any(n % 2 for n in lengths)
        or any(n // call.shards % 2 for n in lengths[:1]),
        # Of them it would compute all keys with a mask: 43 times as many in rows of 8,192 tokens.
        "windows to both sides that xla cuts into blocks": sees_both_sides
        and len({*lengths}) == 1
        and local.is_cheaper(pattern, lengths[0]),
    }
    return next((what for what, is_lacking in lacking.items() if is_lacking), None)


def _splash(*args: Any, **options: Any) -> jax.Array:
    from jaxssl.ops.attention import splash  # Pallas takes half a second to import

    return splash.attend(*args, **options)


def _splash_table(call: Call, num_heads: int, spec: Any) -> tuple[Any, Any]:
    from jaxssl.ops.attention import splash

    table = splash.make_table(call.pattern, num_heads, *call.lengths, shards=call.shards)
    return table, splash.lies(table, spec)


def _cudnn_table(call: Call, num_heads: int, spec: Any) -> tuple[Any, Any]:
    del num_heads
    return (cudnn.make_table(call.lengths[0]), spec) if call.shards > 1 else (None, None)


KERNELS: dict[str, Kernel] = {
    "xla": Kernel(xla.attend, _nothing),
    "splash": Kernel(
        _splash, _splash_lacks, ("tpu",), is_local=True, leaves_out=True, table=_splash_table
    ),
    "cudnn": Kernel(cudnn.attend, _cudnn_lacks, ("gpu",), is_local=True, table=_cudnn_table),
}
"""`auto` tries those of a platform of their own first, then `xla`."""


class Chosen(NamedTuple):
    """The kernel of a call, and why it is not a faster one; empty where there is none."""

    name: str
    why: str = ""


def choose(name: str, call: Call, platform: str) -> Chosen:
    """The kernel that a call runs on: that of this name, or `auto`'s choice.

    A cache is read by `xla`, whatever the name: its queries are a token a row.

    Raises:
      UserError: says what the kernel lacks, and which others take the call.
    """
    if call.has_positions:
        return Chosen("xla")
    if name != "auto":
        check_call(name, call, platform)
        return Chosen(name)
    why = ""
    for other, kernel in KERNELS.items():
        if platform in kernel.platforms:
            refused = kernel.refuses(call, platform)
            if refused is None:
                return Chosen(other)
            why = f"{other}: {refused}"
    return Chosen("xla", why)


def check_call(
    name: str, call: Call, platform: str | None = None, where: str = "model.attention"
) -> None:
    """Refuses a call that a kernel does not take.

    Args:
      platform: where it would run; None where that is not known yet.
      where: what named the kernel.

    Raises:
      UserError: says what it lacks, and which kernels take the call.
    """
    if name == "auto":
        return

    def refused(kernel: Kernel) -> str | None:
        return kernel.refuses(call, platform or next(iter(kernel.platforms), ""))

    lacking = refused(KERNELS[name])
    if lacking is None:
        return
    able = [other for other, kernel in KERNELS.items() if refused(kernel) is None]
    raise UserError(
        f"the attention kernel {name} cannot compute this model",
        where=where,
        expected=f"one of {', '.join(['auto', *able])}" if able else "a model without it",
        got=f"{name}: {lacking}",
        fix="set model.attention=auto" if able else None,
    )


def call_of(
    operands: Operands,
    pattern: Pattern,
    precision: Precision,
    weight_dropout: WeightDropout,
    shards: int = 1,
) -> Call:
    """What these operands, the queries in so many shards, ask a kernel for."""
    tokens, is_float32 = (operands.queries, operands.keys), operands.q.dtype.itemsize >= 4
    return Call(
        pattern=pattern,
        head_dim=operands.q.shape[-1],
        has_bias=operands.bias is not None,
        has_dropout=weight_dropout.is_on,
        has_positions=any(each.positions is not None for each in tokens),
        is_float32=is_float32,
        is_exact=is_float32 and precision.products == "highest",
        lengths=(operands.q.shape[1], operands.k.shape[1]),
        shards=shards,
        gpu=gpu_generation(),
    )
