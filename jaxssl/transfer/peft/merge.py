"""Merging: adapters computed into the parameters of the model that they change; and folding, what
trained them computed into their own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS, canonical, is_stacked, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.models.adapters import Attached
from jaxssl.models.heads import TOKENS
from jaxssl.models.model import Model


def merge_adapters(model: Model, params: Params) -> tuple[Model, Params]:
    """The model without adapters and parameters that give what it gave with them.

    Products and sums are in float32, or the parameters' dtype if that is wider, and cast once at
    the end.

    Args:
      params: of the model alone (`Model.own`), laid out as they are to be.

    Raises:
      UserError: an adapter that no parameters can stand for, or several sets of one.
    """
    plain = dataclasses.replace(model, adapters=())
    base = {name: x for name, x in params.items() if name != ADAPTERS}
    added = by_module(params.get(ADAPTERS, {}), model.adapters)
    for adapter in model.adapters:
        _check(adapter, model, added)

    def merge(base: Params, added: Mapping[str, Any]) -> Params:
        flat = flatten(base)
        for adapter in model.adapters:
            for module, arrays in added.get(adapter.name, {}).items():
                flat |= _merged(adapter, module, flat, arrays)
        return unflatten(flat)

    layout = jax.tree.map(lambda x: x.sharding, base)
    return plain, jax.jit(merge, out_shardings=layout)(base, added)


def folded_model(model: Model) -> Model:
    """The model whose adapters compute what those of this one do once they are trained."""
    adapters: Any = model.adapters
    made = tuple(dataclasses.replace(each, method=each.method.folded) for each in adapters)
    return dataclasses.replace(model, adapters=made)


def fold_adapters(model: Model, params: Params) -> Params:
    """The parameters of `folded_model` for these, of the model alone or with other networks."""
    if ADAPTERS not in params:
        return params
    flat = {}
    for name, modules in by_module(params[ADAPTERS], model.adapters).items():
        adapter: Any = next(each for each in model.adapters if each.name == name)
        for module, arrays in modules.items():
            fold = adapter.method.fold
            fold = fold if adapter.sets is None else jax.vmap(fold)
            made = (jax.vmap(fold) if is_stacked(module) else fold)(arrays)
            flat |= {f"{module}/{name}_{each}": x for each, x in made.items()}
    return {**params, ADAPTERS: unflatten(flat)}


def by_module(
    adapters: Params, attached: tuple[Attached, ...]
) -> dict[str, dict[str, dict[str, Any]]]:
    """{adapter: {module's path: {name: array}}}, names without the adapter's."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    own = (name for x in attached for name in (x.name, *x.method.parameter_names))
    names = sorted(own, key=len, reverse=True)
    for path, x in flatten(adapters).items():
        module, leaf = path.rsplit("/", 1)
        name = next(name for name in names if leaf.startswith(f"{name}_"))
        arrays = found.setdefault(name, {}).setdefault(module, {})
        arrays[leaf.removeprefix(f"{name}_")] = x
    return found


def _merged(adapter: Attached, module: str, flat: Params, added: Mapping[str, Any]) -> Params:
    """The parameters of a module with an adapter's merged into them, by path."""
    own = {
        path.rsplit("/", 1)[1]: x for path, x in flat.items() if path.rsplit("/", 1)[0] == module
    }
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), (own, added))
    path = canonical(module)
    method: Any = adapter.method

    def one(own, added):
        return method.merge(path, own, added)

    new = (jax.vmap(one) if is_stacked(module) else one)(*wide)
    if method.changed_layers is not None and is_stacked(module):
        new = _in_layers(method.changed_layers, module, new, wide[0])
    return {f"{module}/{name}": x.astype(own[name].dtype) for name, x in new.items()}


def _in_layers(
    layers: Sequence[int], module: str, new: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """The new parameters in these layers, the module's own in the others."""
    first = (layer_range(module) or (0, 0))[0]

    def chosen(x: jax.Array) -> np.ndarray:
        numbers = first + np.arange(x.shape[0]).reshape(-1, *(1,) * (x.ndim - 1))
        return np.isin(numbers, layers)

    return {name: jnp.where(chosen(x), x, own[name]) for name, x in new.items()}


def _check(adapter: Attached, model: Model, added: Mapping[str, Any]) -> None:
    if adapter.sets is not None:
        raise UserError(
            "several sets of an adapter cannot be merged into one model",
            where=adapter.name,
            expected="one",
            got=adapter.sets,
        )
    method: Any = adapter.method
    reading = [h.name for h in model.heads if TOKENS in h.reads(model.config)]
    if TOKENS in added.get(adapter.name, {}) and reading and not method.is_in_tied_output:
        raise UserError(
            "the table of tokens is the output's, too, which the adapter does not change",
            where=f"{adapter.name}, {TOKENS}",
            expected="an adapter without it, or a model whose head has a table of its own",
            got=f"read by {', '.join(reading)}",
            fix="keep the adapter beside the model",
        )
