"""Frozen parameters held in codes: which these are, how they lie on a mesh, how they are read."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import canonical, is_stacked
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.precision import Codes
from jaxssl.core.types import Params
from jaxssl.ops.codes import BLOCK, Coded, block_of, encode
from jaxssl.parallel.rules import Laid, num_shards
from jaxssl.program.program import Program
from jaxssl.program.state import Choice, laid_out, layout, parts_of

LEAST = 16
"""Values of the smallest block that is coded: of fewer, a scale takes over two bits a value."""
READ_AT_ONCE = 1 << 30
"""Bytes of parameters that are read together before they are encoded and let go, or one stack of
kernels where that is more: one reading of a small model."""


def is_codable(path: str) -> bool:
    """Whether a parameter may be held in codes: a kernel of layers."""
    return is_stacked(path) and path.endswith("/kernel")


def in_codes(program: Program) -> Choice:
    """Which parameters a program holds in codes, by path: kernels that a base has as they are, and
    that no stage trains."""
    last = program.stages[-1]

    def chosen(path: str) -> bool:
        return is_codable(path) and not last.is_trained(path) and program.start.is_verbatim(path)

    return chosen if program.model.precision.frozen is not None else lambda path: False


def describe_codes(program: Program) -> str | None:
    """What is told of frozen kernels in codes.

    Raises:
      UserError: codes are asked for, and there is nothing to hold in them.
    """
    form, chosen = program.model.precision.frozen, in_codes(program)
    if form is None:
        return None
    paths = [path for path in flatten(program.model.abstract()) if is_codable(path)]
    frozen = [path for path in paths if not program.stages[-1].is_trained(path)]
    held = [path for path in frozen if chosen(path)]
    if not held:
        raise UserError(
            "no frozen parameter can be held in codes",
            where="precision.frozen",
            expected="kernels of layers that are frozen, and that the base (init.from) has in the "
            "dtype of precision.parameters",
            got=f"{form}, with {len(frozen)} stacks of frozen kernels",
            fix="train adapters (peft) or freeze layers (freezing); for a base in bfloat16 set "
            "precision.parameters=bfloat16; or leave precision.frozen out",
        )
    return f"held in {form}: {len(held)} of {len(frozen)} stacks of frozen kernels"


def block_axis(boxed: Any) -> int:
    """The axis of a stack of kernels that blocks lie along: the first that has the largest, rather
    one that tensor parallelism does not split."""

    def rank(axis: int) -> tuple[int, bool]:
        name = str(boxed.names[axis])
        return block_of(boxed.value.shape[axis]), name not in ("heads", "kv_heads", "mlp")

    return max(range(1, boxed.value.ndim), key=rank)


def abstract_codes(boxed: Params, form: Codes, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of parameters in codes.

    Args:
      boxed: shapes and dtypes of the parameters, boxed with their axes.

    Raises:
      UserError: an axis that has no blocks.
    """
    return unflatten({path: _abstract(path, x, form, mesh) for path, x in flatten(boxed).items()})


def _abstract(path: str, boxed: Any, form: Codes, mesh: Mesh) -> Coded:
    axis, whole = block_axis(boxed), boxed.value
    if block_of(whole.shape[axis]) < LEAST:
        raise UserError(
            "a kernel has too small blocks of values to share a scale",
            where=f"precision.frozen={form}, {canonical(path)} {list(whole.shape)}",
            expected=f"a multiple of {LEAST}, better of {BLOCK}, in axis {axis}",
            got=whole.shape[axis],
            fix="leave precision.frozen out",
        )

    parts = parts_of(laid_out(boxed, mesh).sharding, whole.ndim)

    def box(x: Any) -> Any:
        """Split as the kernel is, but for axes of scales that do not divide."""
        names = [
            Laid(str(name), axes) if size % num_shards(mesh, axes) == 0 else None
            for name, size, axes in zip(boxed.names, x.shape, parts)
        ]
        return boxed.replace(names=tuple(names), value=x)

    made = jax.eval_shape(functools.partial(encode, form=form, axis=axis), whole)
    return laid_out(jax.tree.map(box, made), mesh)


def encoded(
    read: Callable[[Callable[[str], bool]], Params], abstract: Params, boxed: Params
) -> Params:
    """Parameters in codes, a part of them read and encoded after the other: never are all of them
    there as they were.

    Args:
      read: gives those that are wanted by their paths.
      abstract: of `abstract_codes`.
      boxed: their axes.
    """
    wanted, axes = flatten(abstract), {path: block_axis(x) for path, x in flatten(boxed).items()}
    made = {}
    for paths in _portions(wanted):
        arrays = flatten(read(set(paths).__contains__))
        for path in paths:
            made[path] = _encode(wanted[path], axes[path])(arrays.pop(path))
    return unflatten(made)


def _encode(wanted: Coded, axis: int) -> Callable[[jax.Array], Coded]:
    encode_it = functools.partial(encode, form=wanted.form, axis=axis)
    return jax.jit(encode_it, out_shardings=layout(wanted))


def _portions(wanted: Mapping[str, Coded]) -> Iterator[Sequence[str]]:
    """The paths in portions of about as many bytes as are read at once."""
    portion, size = [], 0
    for path, x in wanted.items():
        portion.append(path)
        size += x.size * x.dtype.itemsize
        if size >= READ_AT_ONCE:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
