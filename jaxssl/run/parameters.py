"""The parameters of a run that is opened, as its training had them."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxssl.core.layer_names import canonical, layer_range
from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.core.precision import Codes
from jaxssl.core.types import Params
from jaxssl.models.model import Model
from jaxssl.ops.codes import Coded, decode, encode
from jaxssl.program.coded import abstract_codes, block_axis, encoded, is_codable
from jaxssl.program.state import abstract_params, laid_out, layout
from jaxssl.transfer.peft.merge import fold_adapters, folded_model
from jaxssl.transfer.start import Start, first_params


def read_parameters(
    start: Start, model: Model, mesh: Mesh, checkpoint: Path, wanted: Callable[[str], bool]
) -> Params:
    """The parameters, adapters folded; the base's kernels in codes where the run was trained so. To
    be used under the mesh.

    Where some layers of a stack are the base's and others the run's, all are arrays, those of the
    base with the values that their codes stand for.

    Args:
      start: where they are stored.
      checkpoint: of the run itself; what it lacks is the base's.
      wanted: which leaves to read, by path.
    """
    boxed = abstract_params(model)
    abstract = laid_out(boxed, mesh)
    form = model.precision.frozen
    read = functools.partial(first_params, start, model, 0, abstract)
    if form is None:
        return _folded(model, read(wanted), mesh)
    of_base = _layers_of_base(start, boxed, checkpoint, wanted)
    coded, _ = split(boxed, lambda path: path in of_base and bool(np.all(of_base[path])))
    in_codes = flatten(coded).__contains__
    params = flatten(read(lambda path: wanted(path) and not in_codes(path)))
    for path, layers in of_base.items():
        if path in params:
            axis = block_axis(flatten(boxed)[path])
            params[path] = _rounded(params[path], layers, form=form, axis=axis)
    plain = _folded(model, unflatten(params), mesh)
    return join(plain, encoded(read, abstract_codes(coded, form, mesh), coded))


def _layers_of_base(
    start: Start, boxed: Params, checkpoint: Path, wanted: Callable[[str], bool]
) -> dict[str, np.ndarray]:
    """Of the kernels that may be in codes, which layers are the base's, bool [layers]; those that
    have none are left out."""
    taken, found = start.taken(), {}
    for path, box in flatten(boxed).items():
        if not (wanted(path) and is_codable(path)):
            continue
        first = (layer_range(path) or (0,))[0]
        numbers = first + np.arange(box.value.shape[0])
        layers = np.zeros(len(numbers), bool)
        for piece in taken.get(canonical(path), ()):
            if piece.source.path != checkpoint and piece.end is not None:
                layers |= (piece.start <= numbers) & (numbers < piece.end)
        if layers.any():
            found[path] = layers
    return found


@functools.partial(jax.jit, static_argnames=("form", "axis"), donate_argnums=0)
def _rounded(x: jax.Array, layers: jax.Array, *, form: Codes, axis: int) -> jax.Array:
    """`x` whose chosen layers have the values of their codes."""
    chosen = layers.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(chosen, decode(encode(x, form, axis)), x)


def _folded(model: Model, params: Params, mesh: Mesh) -> Params:
    """Parameters of the model, adapters folded."""
    folded = folded_model(model)
    if folded == model:
        return params
    fold = functools.partial(fold_adapters, model)
    there = flatten(jax.eval_shape(fold, params)).__contains__
    shapes, _ = split(laid_out(abstract_params(folded), mesh), there)
    return jax.jit(fold, out_shardings=layout(shapes))(params)


def decoded(params: Params) -> Params:
    """Parameters with those that are in codes as the arrays that these stand for."""
    return jax.tree.map(_decoded, params, is_leaf=lambda x: isinstance(x, Coded))


def _decoded(x: jax.Array | Coded) -> jax.Array:
    return jax.jit(decode)(x) if isinstance(x, Coded) else x
