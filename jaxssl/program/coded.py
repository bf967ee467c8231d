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
from jaxssl.parallel.rules import num_shards
from jaxssl.program.state import laid_out, layout, parts_of

LEAST = 16
"""Values of the smallest block that is coded: of fewer, a scale takes over two bits a value."""
READ_AT_ONCE = 1 << 30
"""Bytes of parameters that are read before they are encoded and let go: few beside what a device
holds, and one reading of a small model."""


def is_codable(path: str) -> bool:
    """Whether a parameter may be held in codes: a kernel of layers."""
    return is_stacked(path) and path.endswith("/kernel")


def block_axis(boxed: Any) -> int:
    """The axis of a stack of kernels that blocks lie along: the first that has the largest, not
    that of heads if another has such, for tensor parallelism splits it."""

    def rank(axis: int) -> tuple[int, bool]:
        return block_of(boxed.value.shape[axis]), "heads" not in str(boxed.names[axis])

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

    def box(x: Any) -> Any:
        parts = parts_of(laid_out(boxed, mesh).sharding, whole.ndim)
        ways = [num_shards(mesh, axes) for axes in parts]
        names = (n if size % way == 0 else None for n, size, way in zip(boxed.names, x.shape, ways))
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
        for path, x in flatten(read(set(paths).__contains__)).items():
            made[path] = _encode(wanted[path], axes[path])(x)
    return unflatten(made)


def _encode(wanted: Coded, axis: int) -> Callable[[jax.Array], Coded]:
    encode_it = functools.partial(encode, form=wanted.form, axis=axis)
    return jax.jit(encode_it, out_shardings=layout(wanted), donate_argnums=0)


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
