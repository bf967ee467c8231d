"""The parameters of a run that is opened, as its training had them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import canonical, layer_range
from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.core.precision import Codes
from jaxssl.core.types import Params
from jaxssl.models.model import Model
from jaxssl.ops.codes import CODES, Coded, decode, encode
from jaxssl.program.coded import abstract_codes, block_axis, encoded
from jaxssl.program.state import abstract_params, laid_out, layout
from jaxssl.train.frozen_check import read_fingerprints
from jaxssl.transfer.peft.merge import fold_adapters, folded_model
from jaxssl.transfer.start import Start, first_params

ALL = -1
"""Stands for all layers of a stack of one segment."""


def layers_in_codes(run_dir: Path) -> dict[str, list[int]]:
    """Of the kernels that a run was trained with in codes, by name in a stack of one segment, which
    layers these are; as the run noted when it started."""
    found: dict[str, list[int]] = {}
    for path in read_fingerprints(run_dir):
        kernel = path.removesuffix(CODES)
        if kernel != path:
            first, end = layer_range(kernel) or (0, None)
            layers = found.setdefault(canonical(kernel), [])
            layers += [ALL] if end is None else range(first, end)
    return found


def read_parameters(
    run_dir: Path, start: Start, model: Model, mesh: Mesh, wanted: Callable[[str], bool]
) -> tuple[Model, Params]:
    """The model, its adapters folded, and its parameters, kernels in codes where the run was
    trained so. To be used under the mesh.

    Where some layers of a stack were in codes and others not, all are arrays, the former with the
    values that their codes stand for.

    Args:
      start: where they are stored.
      wanted: which leaves to read, by path.

    Raises:
      UserError: codes are asked for, of a run that had none.
    """
    boxed = abstract_params(model)
    abstract = laid_out(boxed, mesh)
    form, noted = model.precision.frozen, layers_in_codes(run_dir)
    read = functools.partial(first_params, start, model, 0, abstract)
    if form is None:
        return _folded(model, read(wanted), mesh)
    _check_noted(noted, form, run_dir)
    leaves = {path: box for path, box in flatten(boxed).items() if wanted(path)}
    chosen = {
        p: _chosen(noted[canonical(p)], p, x) for p, x in leaves.items() if canonical(p) in noted
    }
    coded = unflatten({path: leaves[path] for path, layers in chosen.items() if layers.all()})
    whole = flatten(coded).__contains__
    params = flatten(read(lambda path: wanted(path) and not whole(path)))
    for path in chosen.keys() - flatten(coded).keys():
        axis = block_axis(leaves[path])
        params[path] = _rounded(params[path], chosen[path], form=form, axis=axis)
    folded, plain = _folded(model, unflatten(params), mesh)
    return folded, join(plain, encoded(read, abstract_codes(coded, form, mesh), coded))


def _check_noted(noted: Mapping[str, Any], form: Codes, run_dir: Path) -> None:
    if not noted:
        raise UserError(
            "this run was trained without codes",
            where=f"precision.frozen={form}",
            expected="a run that was trained with precision.frozen",
            got=run_dir,
            fix="leave precision.frozen out",
        )


def _chosen(layers: Sequence[int], path: str, boxed: Any) -> np.ndarray:
    """Which layers of a leaf are among these, bool [layers]."""
    first, count = (layer_range(path) or (0,))[0], boxed.value.shape[0]
    return np.array([ALL in layers or first + i in layers for i in range(count)])


@functools.partial(jax.jit, static_argnames=("form", "axis"), donate_argnums=0)
def _rounded(x: jax.Array, layers: jax.Array, *, form: Codes, axis: int) -> jax.Array:
    """`x` whose chosen layers have the values of their codes."""
    chosen = layers.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(chosen, decode(encode(x, form, axis)), x)


def _folded(model: Model, params: Params, mesh: Mesh) -> tuple[Model, Params]:
    """The model with its adapters folded, and its parameters."""
    folded = folded_model(model)
    if folded == model:
        return model, params
    fold = functools.partial(fold_adapters, model)
    there = flatten(jax.eval_shape(fold, params)).__contains__
    shapes, _ = split(laid_out(abstract_params(folded), mesh), there)
    return folded, jax.jit(fold, out_shardings=layout(shapes))(params)


def decoded(params: Params) -> Params:
    """Parameters with those that are in codes as the arrays that these stand for."""
    return jax.tree.map(_decoded, params, is_leaf=lambda x: isinstance(x, Coded))


def _decoded(x: jax.Array | Coded) -> jax.Array:
    return jax.jit(decode)(x) if isinstance(x, Coded) else x
