"""Several adapters of one kind side by side, of which each row of a batch uses one: their
parameters become sets of one adapter's (`Attached.sets`), and a batch says which by `adapter`
int32 [B]."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS, is_stacked
from jaxssl.core.names import unflatten
from jaxssl.core.types import Params
from jaxssl.models.adapters import Attached
from jaxssl.models.model import Model
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.merge import by_module

NAME = "side"
"""Of the adapter that they become."""
OF_TRAINING = (
    *("from_", "frozen", "learning_rate_factor", "second_factor", "dropout", "seed"),
    *("initialization", "initial_text", "initial_scale"),
)
"""Settings that may differ: they say how an adapter began and was trained."""
UNORDERED = ("targets", "inputs")
"""Settings whose order says nothing."""
SHOWN = 60
"""Most characters of a setting in an error."""
WHERE = "adapters side by side"


def side_by_side(model: Model, params: Params) -> tuple[Model, Params, dict[str, int]]:
    """The model whose adapters are sets of one.

    Args:
      params: of the model alone (`Model.own`).

    Returns:
      The model, its parameters, and {an adapter's name: its number}.

    Raises:
      UserError: fewer than two adapters, adapters of several kinds or settings, or such as change
        what all rows have in common.
    """
    method = _of_one_kind(model.adapters)
    numbers = {each.name: number for number, each in enumerate(model.adapters)}
    found = by_module(params[ADAPTERS], model.adapters)
    first, *others = (found.get(name, {}) for name in numbers)
    shapes = [jax.tree.map(jnp.shape, each) for each in (first, *others)]
    if any(each != shapes[0] for each in shapes):
        raise _not_alike("parameters of one shape at the same places", ", ".join(numbers))
    _check_places(first)

    def stacked(sets: list[Mapping[str, Mapping[str, Any]]]) -> Params:
        made = {}
        for module, arrays in sets[0].items():
            for leaf in arrays:
                each = [one[module][leaf] for one in sets]
                made[f"{module}/{NAME}_{leaf}"] = jnp.stack(each, axis=int(is_stacked(module)))
        return unflatten(made)

    added = jax.jit(stacked)([first, *others])
    adapters = (Attached(NAME, method, len(numbers)),)
    return dataclasses.replace(model, adapters=adapters), {**params, ADAPTERS: added}, numbers


def _of_one_kind(adapters: tuple[Attached, ...]) -> Method:
    """Their method, as it is beside others."""
    if len(adapters) < 2:
        names = ", ".join(x.name for x in adapters) or "none"
        raise _not_alike(
            "two adapters or more", names, "give each of them: --adapter A --adapter B"
        )
    plain: list[Any] = []
    for each in adapters:
        method: Any = each.method
        if method.parameter_names or not method.is_stored or method.changed_layers is not None:
            raise _not_alike("adapters that are by themselves, in all layers", method.name)
        if method.is_of_all_rows:
            raise _not_alike("methods that a row can have by itself", _shared(each))
        defaults = {x.name: x.default for x in dataclasses.fields(method)}
        same = {name: defaults[name] for name in OF_TRAINING if name in defaults}
        same |= {
            name: tuple(sorted(getattr(method, name))) for name in UNORDERED if name in defaults
        }
        plain.append(dataclasses.replace(method, **same))
    for each, method in zip(adapters, plain):
        if method != plain[0]:
            raise _not_alike(
                f"the method and settings of {adapters[0].name}, {_told(plain[0], method)}",
                f"{each.name}: {_told(method, plain[0])}",
            )
    return plain[0]


def _shared(adapter: Attached) -> str:
    method: Any = adapter.method
    settings = [
        f"{name}={getattr(method, name)}"
        for name in ("magnitude", "initialization")
        if hasattr(method, name)
    ]
    return f"{adapter.name}: {' '.join([method.name, *settings])}"


def _told(method: Method, other: Method) -> str:
    """The method, or what settings it has otherwise than another."""
    if type(method) is not type(other):
        return method.name
    names = (x.name for x in dataclasses.fields(method))
    unlike = (name for name in names if getattr(method, name) != getattr(other, name))
    return ", ".join(f"{name}={str(getattr(method, name))[:SHOWN]}" for name in unlike)


def _check_places(modules: Mapping[str, Any]) -> None:
    """Refuses a head's: it is not told which row it reads."""
    for module in modules:
        is_in_body = "/layers" in module or "embeddings" in module or module == "shared"
        if not is_in_body:
            raise _not_alike("adapters of the layers and of embeddings", module)


def _not_alike(expected: str, got: str, fix: str = "use one at a time") -> UserError:
    return UserError(
        "these adapters cannot be chosen row by row",
        where=WHERE,
        expected=expected,
        got=got,
        fix=fix,
    )
