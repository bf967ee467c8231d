"""The state of training, born sharded over the mesh."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import canonical
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.core.upcast import upcast
from jaxssl.models.layers import is_boxed
from jaxssl.models.model import Model
from jaxssl.parallel.mesh import replicated
from jaxssl.parallel.rules import num_shards, rules_in_force

T = TypeVar("T")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """What a checkpoint holds. There is no random state: dropout is folded from `step`."""

    step: jax.Array
    """int32 []; batches taken, whether or not their update was applied."""
    params: Params
    """The parameters that are trained."""
    opt_state: Any
    """The optimizer's state."""
    skipped: jax.Array
    """int32 []; updates left out because loss or gradients were not finite."""
    kept: Params = field(default_factory=dict)
    """Frozen parameters that no base holds: those that started fresh or were resized."""
    ema: Params = field(default_factory=dict)
    """An exponential moving average of `params`, float32; empty where none is asked for."""


Choice = Callable[[str], bool]
"""Of a parameter, by its path."""


def everything(path: str) -> bool:
    """Chooses all parameters."""
    return True


def first_state(
    params: Params, kept: Params, optimizer: optax.GradientTransformation, has_ema: bool
) -> State:
    """The state before the first step."""
    zero = jnp.zeros([], jnp.int32)
    ema = jax.tree.map(upcast, params) if has_ema else {}
    return State(zero, params, optimizer.init(params), zero, kept, ema)


def abstract_params(model: Model) -> Params:
    """Shapes and dtypes of a model's parameters, boxed with their axes as the table in force lays
    out each of them; the optimizer's state that is made of them has these axes, too."""
    table = rules_in_force()

    def one(path, leaf):
        return leaf.replace(names=table.of_parameter(path, leaf.names)) if is_boxed(leaf) else leaf

    return unflatten({path: one(path, x) for path, x in flatten(model.abstract()).items()})


def laid_out(boxed: T, mesh: Mesh | AbstractMesh) -> T:
    """Shapes, dtypes and shardings of a tree of shapes.

    Args:
      boxed: its leaves are boxed with their axis names, or are whole on every device.

    Raises:
      UserError: an axis of a parameter does not divide over the mesh.
    """

    def one(path, leaf):
        if not is_boxed(leaf):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))
        names, value = leaf.names, leaf.value
        sharding = NamedSharding(mesh, rules_in_force().spec(names, mesh))
        _check_divides(path, names, value.shape, sharding)
        return jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)

    return jax.tree.map_with_path(one, boxed, is_leaf=is_boxed)


def _check_divides(path, names, shape, sharding: NamedSharding) -> None:
    own = canonical("/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey)))
    for axis, (name, size, axes) in enumerate(zip(names, shape, parts_of(sharding, len(shape)))):
        ways = num_shards(sharding.mesh, axes)
        if size % ways:
            raise UserError(
                "a parameter does not divide over the mesh",
                where=f"{own}, axis {axis} ({name})",
                expected=f"a multiple of {ways} ({' x '.join(f'mesh.{each}' for each in axes)})",
                got=size,
                fix="pad the size (model.vocab_size, say), use a smaller mesh axis, or leave all "
                f"such axes whole: 'mesh.rules={{{name}: []}}'",
            )


def parts_of(sharding: NamedSharding, ndim: int) -> list[tuple[str, ...]]:
    """The axes of the mesh that split each axis of an array."""
    parts = [*sharding.spec, *[None] * ndim][:ndim]
    return [() if x is None else x if isinstance(x, tuple) else (x,) for x in parts]


def on_hosts(abstract: T) -> T:
    """An abstract tree whose arrays lie in the memory of the hosts; numbers stay on the devices."""

    def one(leaf):
        if not leaf.ndim:
            return leaf
        sharding = leaf.sharding.with_memory_kind("pinned_host")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(one, abstract)


def layout(abstract: T) -> T:
    """The shardings of an abstract tree."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)
