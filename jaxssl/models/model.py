"""A model as pure functions: what objectives, evaluation and generation call."""

import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch, Params
from jaxssl.models.config import Stack
from jaxssl.models.heads import Head, Use
from jaxssl.models.layers import is_boxed, unbox
from jaxssl.models.transformer import ModelConfig, Transformer
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.parallel.axes import constrain


@dataclass(frozen=True)
class Model:
    """A configured model. Hashable; holds no parameters.

    Attributes:
      config: the family's configuration.
      heads: those it carries.
      precision: the dtypes it computes in.
    """

    config: ModelConfig
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()

    @property
    def module(self) -> nn.Module:
        """The Linen module."""
        return Transformer(self.config, self.heads, self.precision)

    def head_named(self, name: str) -> Head:
        """One of its heads."""
        return next(head for head in self.heads if head.name == name)

    def can(self, use: Use) -> bool:
        """Whether it has a head to `continue` texts, or to `fill` masks in them."""
        return any(head.use == use for head in self.heads)

    def head_for(self, use: Use) -> str:
        """The name of the head that does so."""
        return next(head.name for head in self.heads if head.use == use)

    @property
    def body_parts(self) -> tuple[str, ...]:
        """Top-level names of parameters that are no head's. The pooler counts as one: what another
        model's pooler learnt may be left behind as its heads are."""
        return ("embeddings", "encoder", "decoder", "norm")

    @property
    def optional_parts(self) -> tuple[str, ...]:
        """Top-level names of parameters that the configuration may ask for unread."""
        return ("pooler",)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks of layers that it has."""
        return self.config.stacks

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters, boxed with their logical axes (`layers.unbox` takes them off)."""

        def touch_everything(module):
            ids = jnp.zeros((1, 2), jnp.int32)
            hidden = module.encode({"tokens": ids, "segment_ids": ids + 1, "positions": ids})
            pooled = module.pool(hidden) if self.config.body().pooler else hidden[:, 0]
            for head in self.heads:
                x = pooled if head.input == "row" else hidden
                module.head(head.name, jnp.concatenate([x] * head.num_inputs, axis=-1))

        return self.module.init(key, method=touch_everything, mutable=("params",))["params"]

    def abstract(self) -> Params:
        """Shapes and dtypes of the parameters, boxed; nothing is computed."""
        return jax.tree.map(lambda leaf: leaf, _abstract(self))

    def apply(
        self,
        params: Params,
        method: str,
        *args: Any,
        key: jax.Array | None = None,
        cache: Any = None,
    ) -> Any:
        """What a method of the module makes of `args`: the one place where the module is called.

        Args:
          key: of dropout; None means evaluation.
          cache: keys and values so far. With one, what comes out is (output, the cache with what
            was written to it).
        """
        rngs = None if key is None else {"dropout": key}
        if cache is None:
            return self.module.apply({"params": params}, *args, method=method, rngs=rngs)
        variables = {"params": params, "cache": cache}
        out, new = self.module.apply(variables, *args, method=method, rngs=rngs, mutable="cache")
        return out, new["cache"]  # type: ignore[index]

    def encode(
        self,
        params: Params,
        batch: Batch,
        dropout_key: jax.Array | None = None,
        pattern: Pattern | None = None,
    ) -> jax.Array:
        """Hidden states [B, T, H]; `dropout_key` None means evaluation.

        A batch with `features` [B, T, H] brings its hidden states along: they were encoded before.
        One with `row` uint32 [B], its rows' places in the global batch, is dropped as it would be
        there.

        Args:
          pattern: of attention in this call, in place of the configuration's; layers keep their
            windows. With a prefix the batch brings `prefix` int32 [B, T], 1 where a token is seen
            by its whole segment.
        """
        if "features" in batch:
            return jnp.asarray(batch["features"])
        return self.apply(params, "encode", batch, pattern, key=dropout_key)

    def decode(self, params: Params, batch: Batch, cache: Any) -> tuple[jax.Array, Any]:
        """Hidden states of new tokens and the cache with their keys and values written.

        The batch's `positions` are slots of the cache; each row fills its own without gaps.
        """
        return self.apply(params, "encode", batch, cache=cache)

    def head(
        self,
        params: Params,
        name: str,
        x: jax.Array,
        dropout_key: jax.Array | None = None,
        rows: jax.Array | None = None,
    ) -> jax.Array:
        """One head's output; reads only `head_params(params, name)`.

        Args:
          rows: a batch's `row`, the places in the global batch of the rows of `x`.
        """
        return self.apply(params, "head", name, x, rows, key=dropout_key)

    def pool(self, params: Params, hidden: jax.Array) -> jax.Array:
        """The sentence vector [B, H]."""
        return self.apply(params, "pool", hidden)

    def head_params(self, params: Params, name: str) -> Params:
        """The parameters that a head reads, as a tree that `head` accepts."""
        parts = self.head_named(name).reads(self.config)
        flat = flatten(params)
        inside = lambda path: any(path == part or path.startswith(part + "/") for part in parts)
        return unflatten({path: leaf for path, leaf in flat.items() if inside(path)})

    def empty_cache(self, batch_size: int, length: int) -> Params:
        """Zeroed keys and values for `length` positions of each row, in the compute dtype.

        What the layers keep, and how it is laid out, they say themselves: it is what they would
        write in a pass over rows of that length.
        """

        def written(params):
            ids = jnp.zeros((batch_size, length), jnp.int32)
            return self.decode(params, {"tokens": ids, "segment_ids": ids, "positions": ids}, {})[1]

        boxed = jax.eval_shape(written, unbox(self.abstract()))
        zeros = lambda box: constrain(jnp.zeros(box.value.shape, box.value.dtype), box.names)
        return jax.tree.map(zeros, boxed, is_leaf=is_boxed)


@functools.lru_cache(maxsize=32)
def _abstract(model: Model) -> Params:
    """To trace a model takes a third of a second, and its shapes are asked for a dozen times."""
    return jax.eval_shape(model.init, jax.random.key(0))


def num_parameters(params: Params, leave_out: tuple[str, ...] = ()) -> int:
    """The number of parameters, without the top-level parts named in `leave_out`."""
    kept = {name: part for name, part in params.items() if name not in leave_out}
    return sum(leaf.size for leaf in jax.tree.leaves(kept))


def check_length(
    config: ModelConfig, sequence_length: int, where: str = "data.sequence_length"
) -> None:
    """Refuses sequences longer than the model's positions.

    Raises:
      UserError: says both lengths.
    """
    if sequence_length > config.max_positions:
        raise UserError(
            "the sequence is longer than the model's positions",
            where=where,
            expected=f"at most model.max_positions={config.max_positions}",
            got=sequence_length,
            fix="shorten the sequence or give the model more positions",
        )
