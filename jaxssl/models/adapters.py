"""Adapters: changes of what a model computes, with parameters of their own, in any family.

A method is a dataclass over `Adapter`; attached to a model under a name (`Model.adapters`) it is an
adapter of it. What every family is assembled of are its sites: projections, embeddings, sublayers,
and the keys and values of attention. There it may compute something else, with parameters that
it makes there. They lie at the path, and in the segment, of what they change:
`adapters/encoder/layers/attention/query/default_a`, so that freezing, learning rates, sharding and
the ledger work on them as on all others. Those that all sites have in common lie at
`adapters/shared`.

Several sets of parameters of one adapter may lie side by side, and each row of a batch use one of
them.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng

from jaxssl.core.layer_names import ADAPTERS, canonical, layer_range
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.attention import CrossAttention, SelfAttention
from jaxssl.models.blocks import FeedForward
from jaxssl.models.layers import Embedding, Names, Projection, unbox
from jaxssl.models.transformer import Embeddings
from jaxssl.ops.codes import values

ONE_TABLE = ("decoder_embeddings/tokens/", "embeddings/tokens/")
"""A decoder reads the table of its encoder, and alone it keeps the name."""
SHARED = "shared"
"""Where parameters lie that all sites of an adapter have in common."""
Shared = Mapping[str, tuple[nn.initializers.Initializer, tuple[int, ...]]]
"""Such parameters, by their full names: what they begin as, and their shapes."""
Compute = Callable[[jax.Array], jax.Array]
"""What a site computes without this adapter, with those before it."""


@dataclass(frozen=True)
class Site:
    """Where an adapter is called.

    Attributes:
      module: whose computation it is: its sizes, the names of its axes, its own parameters.
      adapter: the name of the adapter.
      precision: the dtypes of the model.
      sets: how many sets of parameters lie side by side; None is one.
      batch: that of `encode`; of a head `row` alone, where it is known, and of a pooler nothing.
        When parameters are made it is empty.
      common: parameters that all sites have in common, by their full names.
    """

    module: Any
    adapter: str
    precision: Precision
    sets: int | None
    batch: Batch
    common: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """`encoder/layers/attention/query`: one for all layers of a stack."""
        return canonical("/".join(self.module.path))

    @property
    def is_by_row(self) -> bool:
        """Whether each row uses a set of parameters of its own."""
        return self.sets is not None and "adapter" in self.batch

    def parameter(
        self,
        name: str,
        initializer: nn.initializers.Initializer,
        axes: Names,
        shape: tuple[int, ...],
    ) -> jax.Array:
        """A parameter of the adapter at this site, `NAME_name` with the adapter's name, in the
        compute dtype; its axes carry their logical names. In a stack it has an axis of layers
        before these.

        Of several sets each row's comes out, [B, *shape], of a vector [B, 1, size], so that it
        meets [B, T, size] as one for all would; the first, where a batch does not choose.
        """
        scope = self.module.scope
        if self.sets is not None:
            axes, shape = (None, *axes), (self.sets, *shape)
            initializer = _in_sets(initializer)
        named = nn.with_logical_partitioning(initializer, axes)

        def fresh():
            return named(scope.make_rng(ADAPTERS), shape, self.precision.parameters)

        full = f"{self.adapter}_{name}"
        if scope.has_variable(ADAPTERS, full):  # a table that two stacks read is called twice
            value = unbox(scope.get_variable(ADAPTERS, full))
        else:
            value = scope.variable(ADAPTERS, full, fresh).value
        if value.shape != shape:
            raise flax.errors.ScopeParamShapeError(full, scope.path_text, shape, value.shape)
        return self._chosen(value)

    def shared_parameter(self, name: str) -> jax.Array:
        """A parameter that all sites of the adapter have in common (`Adapter.in_common`), in the
        compute dtype; of several sets as `parameter`."""
        return self._chosen(self.common[f"{self.adapter}_{name}"])

    def _chosen(self, value: jax.Array) -> jax.Array:
        """Of several sets each row's, or the first."""
        if self.is_by_row:
            value = value[self.batch["adapter"]]
            value = value[:, None] if value.ndim == 2 else value
        elif self.sets is not None:
            value = value[0]
        return value.astype(self.precision.compute)

    def base(self, name: str) -> jax.Array:
        """A parameter of the module itself, such as its `kernel`, once it has computed."""
        return values(unbox(self.module.get_variable("params", name)))

    def dropout_key(self) -> jax.Array | None:
        """Of the adapter's dropout at this site, or None in evaluation; the module's own masks do
        not depend on it."""
        scope = self.module.scope
        if not scope.has_rng("dropout"):
            return None
        return LazyRng.create(scope.rngs["dropout"], ADAPTERS, self.adapter).as_jax_rng()


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What all methods have in common: here no site is changed. Hashable; holds no parameters."""

    name: str
    """The method."""

    def in_common(self, adapter: str) -> Shared:
        """The parameters that all sites have in common: none.

        Args:
          adapter: its name, which theirs begin with.
        """
        del adapter
        return {}

    @property
    def parameter_names(self) -> Sequence[str]:
        """What names of its parameters begin with, besides the adapter's own: those of others that
        it takes over."""
        return ()

    @property
    def changed_layers(self) -> Sequence[int] | None:
        """The layers of each stack that are changed; None is all. In the others its parameters stay
        as they begin, and change nothing."""
        return None

    def is_outside(self, path: str) -> bool:
        """Whether a site or a parameter is in a segment without a layer that is changed; a run is
        cut so that the other layers are in such segments."""
        segment, layers = layer_range(path), self.changed_layers
        if segment is None or layers is None:
            return False
        return not any(segment[0] <= layer < segment[1] for layer in layers)

    @property
    def begun_from(self) -> Mapping[str, str]:
        """{parameter: the module's own that it is made of, before the first step}."""
        return {}

    def begin(self, name: str, path: str, own: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The first value of such a parameter, of this shape: here a copy.

        Args:
          name: without the adapter's.
          path: of the site, one for all layers of a stack.
          own: the module's parameter, of one layer.
        """
        del name, path
        return own.reshape(shape)

    def pull(self, name: str, value: jax.Array) -> tuple[float, jax.Array] | None:
        """What draws a parameter somewhere while it is trained: (f, d), where d is `value` less a
        constant, and f / 2 |d|^2 is added to the loss; None where nothing does.

        Args:
          name: without the adapter's.
          value: in float32 at least, of one segment or all layers.
        """
        del name, value
        return None

    def projection(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """Of a dense layer: [..., *in] to [..., *features]."""
        del site
        return compute(x)

    def embedding(self, site: Site, compute: Compute, ids: jax.Array) -> jax.Array:
        """Of a table's look-up: ids [B, T] to [B, T, H]."""
        del site
        return compute(ids)

    def attended(self, site: Site, compute: Compute, hidden: jax.Array) -> jax.Array:
        """Of a table that is the output, too: hidden states [..., H] to logits [..., V]."""
        del site
        return compute(hidden)

    def sublayer(self, site: Site, compute: Compute, x: jax.Array) -> jax.Array:
        """Of attention or the feed-forward layer, between norm and residual: [B, T, H]."""
        del site
        return compute(x)

    @property
    def lead(self) -> int:
        """Tokens of its own that it puts before each text (`embedded`): here none."""
        return 0

    @property
    def shift(self) -> int:
        """Learned positions that tokens are moved by (`placed`): here none."""
        return 0

    def placed(self, site: Site, positions: jax.Array) -> jax.Array:
        """Of the learned positions that a row's tokens are given, int32 [B, T]."""
        del site
        return positions

    def embedded(self, site: Site, x: jax.Array) -> jax.Array:
        """Of the embeddings of a row's tokens, [B, T, E]: those of `lead` more before them. Of an
        encoder-decoder those that the encoder reads."""
        del site
        return x

    def keys_values(
        self, site: Site, keys: jax.Array, values: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Of attention, to a row's own tokens or to a memory, [B, S, K, D]. What it puts before
        them is seen by every query."""
        del site
        return keys, values


@dataclass(frozen=True)
class Attached:
    """An adapter of a model.

    Attributes:
      name: the beginning of its parameters' names.
      method: what it does.
      sets: how many sets of its parameters lie side by side, of which each row of a batch uses the
        one that its entry `adapter` int32 [B] says; None is one set.
    """

    name: str
    method: Adapter
    sets: int | None = None


def shared_parameters(adapters: Sequence[Attached], key: jax.Array, dtype: Any) -> dict[str, Any]:
    """Fresh parameters that all sites of an adapter have in common, boxed, by their full names."""
    found = {}
    for adapter in adapters:
        for full, (initializer, shape) in adapter.method.in_common(adapter.name).items():
            key, own = jax.random.split(key)
            if adapter.sets is not None:
                initializer, shape = _in_sets(initializer), (adapter.sets, *shape)
            names = (None,) * len(shape)
            found[full] = nn.with_logical_partitioning(initializer, names)(own, shape, dtype)
    return found


def _in_sets(initializer: nn.initializers.Initializer) -> nn.initializers.Initializer:
    """Of several sets, each drawn by itself."""

    def drawn(key, shape, dtype):
        keys = jax.random.split(key, shape[0])
        return jnp.stack([initializer(each, shape[1:], dtype) for each in keys])

    return drawn


def begun(adapters: Sequence[Attached], path: str) -> tuple[Attached, str, str] | None:
    """Of a parameter that is made of one of the model's own: (the adapter, the parameter's name
    without the adapter's, the path of the model's own); of another, None.

    Args:
      path: in the network, of one segment or all layers.
    """
    if not path.startswith(f"{ADAPTERS}/"):
        return None
    module, leaf = path.removeprefix(f"{ADAPTERS}/").rsplit("/", 1)
    for adapter in adapters:
        name = leaf.removeprefix(f"{adapter.name}_")
        if name != leaf and name in adapter.method.begun_from:
            own = f"{module}/{adapter.method.begun_from[name]}"
            return adapter, name, own.replace(*ONE_TABLE)
    return None


def is_at_rest(adapters: Sequence[Attached], path: str) -> bool:
    """Whether a parameter, by its path in the network, is an adapter's that is read nowhere, since
    the adapter does not change its layers."""
    owner = owner_of(adapters, path)
    return owner is not None and owner.method.is_outside(path)


def owner_of(adapters: Sequence[Attached], path: str) -> Attached | None:
    """The adapter that a parameter belongs to, by its path in the network, or None."""
    if not path.startswith(f"{ADAPTERS}/"):
        return None
    leaf = path.rsplit("/", 1)[1]
    owners = [each for each in adapters if leaf.startswith(f"{each.name}_")]
    return max(owners, key=lambda each: len(each.name), default=None)


def pulled(adapters: Sequence[Attached], path: str, value: jax.Array) -> Any:
    """What a parameter's own adapter draws it by (`Adapter.pull`), or None."""
    owner = owner_of(adapters, path)
    if owner is None:
        return None
    return owner.method.pull(path.rsplit("/", 1)[1].removeprefix(f"{owner.name}_"), value)


SITES: dict[tuple[type[nn.Module], str], str] = {
    (Projection, "__call__"): "projection",
    (Embedding, "__call__"): "embedding",
    (Embedding, "attend"): "attended",
    (SelfAttention, "__call__"): "sublayer",
    (CrossAttention, "__call__"): "sublayer",
    (FeedForward, "__call__"): "sublayer",
    (SelfAttention, "keys_values"): "keys_values",
    (CrossAttention, "keys_values"): "keys_values",
    (Embeddings, "embedded"): "embedded",
    (Embeddings, "placed"): "placed",
}
"""The method of `Adapter` that a module's method is given to."""


def adapted(
    adapters: Sequence[Attached],
    precision: Precision,
    batch: Batch,
    shared: Mapping[str, Any] = {},
) -> AbstractContextManager[None]:
    """Where a module is called with these adapters; the first is the innermost.

    Args:
      shared: parameters that all sites of an adapter have in common.
    """
    common = {name: unbox(x) for name, x in shared.items()}

    def intercept(compute: Callable[..., Any], args: Any, kwargs: Any, call: Any) -> Any:
        kind = SITES.get((type(call.module), call.method_name))
        if kind is None:
            return compute(*args, **kwargs)
        changes = [
            functools.partial(
                getattr(each.method, kind),
                Site(call.module, each.name, precision, each.sets, batch, common),
            )
            for each in adapters
        ]
        if kind == "keys_values":
            return functools.reduce(lambda pair, change: change(*pair), changes, compute(*args))
        if kind in ("embedded", "placed"):
            return functools.reduce(lambda x, change: change(x), changes, compute(*args))
        x, *rest = args

        def computed(x):
            return compute(x, *rest, **kwargs)

        for change in changes:
            computed = functools.partial(change, computed)
        return computed(x)

    return nn.intercept_methods(intercept) if adapters else contextlib.nullcontext()
