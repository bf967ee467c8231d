"""Attention of a layer: to its own tokens, and to those of another stack.

Shapes: B rows, T tokens, S keys (cached, or of the memory), N heads, K heads of keys and values,
D width of a head.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxssl.core.errors import UserError
from jaxssl.core.platform import platform
from jaxssl.core.precision import Precision
from jaxssl.models.config import AttentionConfig, BlockConfig
from jaxssl.models.layer_context import Context, LayerNumbers, Memory
from jaxssl.models.layers import Projection, dropout_rng, make_norm
from jaxssl.ops.attention.kernels import KERNELS, KernelName, call_of, choose
from jaxssl.ops.attention.operands import NO_DROPOUT, Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern, Tokens, is_uneven
from jaxssl.ops.rotary import rotate
from jaxssl.parallel.axes import constrain, exchanged, on_shards, shards_of, split_by, to_spec

CACHE = ("batch", "kv_heads", "keys", "head_dim")
"""Heads before slots: as products read them. Else they were copied for each token, all of them."""
KEYS = ("batch", "keys", "kv_heads", "head_dim")
"""Keys and values as queries read them."""


def project(block: BlockConfig, c: AttentionConfig, name: str, x: jax.Array) -> jax.Array:
    """Queries, keys or values of x [B, T, H]: [B, T, N or K, D]. Called in a module."""
    heads, axis = (c.num_heads, "heads") if name == "query" else (c.num_kv_heads, "kv_heads")
    layer = Projection(
        (heads, c.head_dim),
        ("embed", axis, "head_dim"),
        (c.query_initializer if name == "query" else None) or block.initializer,
        block.precision,
        use_bias=c.qkv_bias,
        name=name,
    )
    return constrain(layer(x), ("batch", "sequence", axis, "head_dim"))


def project_out(block: BlockConfig, c: AttentionConfig, x: jax.Array) -> jax.Array:
    """Hidden states [B, T, H] of what was attended to, [B, T, N, D]. Called in a module."""
    layer = Projection(
        (block.hidden_size,),
        ("heads", "head_dim", "embed"),
        block.output_initializer,
        block.precision,
        num_in=2,
        use_bias=c.output_bias,
        name="output",
    )
    return layer(checkpoint_name(x, "attention_output"))


def kernel_of(module: nn.Module, c: AttentionConfig) -> KernelName:
    """The kernel that is configured; any will do for the two tokens that parameters begin with."""
    return "xla" if module.is_initializing() else c.kernel


def on_kernel(
    name: KernelName,
    operands: Operands,
    pattern: Pattern,
    precision: Precision,
    drop: WeightDropout,
) -> jax.Array:
    """Attention [B, T, N, D] by the kernel of this name, or `auto`'s choice; one that knows a
    single device computes each device's shard of rows, queries and heads.

    Where the last queries of a row see more keys than the first, and are on another device, devices
    exchange half of theirs, and what comes of them: each then has as much to compute."""
    if split_by("sequence"):  # each device has its own queries, and gathers the keys that these see
        k, v = (constrain(x, KEYS) for x in (operands.k, operands.v))
        operands = dataclasses.replace(operands, k=k, v=v)
    call = call_of(operands, pattern, precision, drop, shards_of("sequence"))
    kernel = KERNELS[choose(name, call, platform()).name]
    if not kernel.is_local:
        return kernel.attend(operands, pattern, precision, drop)

    def attend(operands: Operands, table: Any) -> jax.Array:
        more = {} if table is None else {"table": table}
        return kernel.attend(operands, pattern, precision, NO_DROPOUT, **more)

    def shared_out(operands: Operands, table: Any) -> jax.Array:
        q, queries = exchanged((operands.q, operands.queries), over)
        return exchanged(attend(dataclasses.replace(operands, q=q, queries=queries), table), over)

    over = split_by("sequence")
    is_shared_out = kernel.leaves_out and is_uneven(pattern, call.shards)
    on_shard = shared_out if is_shared_out else attend

    heads: Any = to_spec(("batch", "sequence", "heads", None))
    keys: Any = to_spec(KEYS)
    of_queries: Any = to_spec(("batch", "sequence"))
    of_keys: Any = to_spec(KEYS[:2])
    ours, theirs = (Tokens(x, x, x) for x in (of_queries, of_keys))
    specs = Operands(heads, keys, keys, ours, theirs, scale=operands.scale)
    num_heads = operands.q.shape[2] // shards_of("heads")
    table, lies = kernel.table(call, num_heads, to_spec((None, "sequence")))
    return on_shards(on_shard, (specs, lies), heads)(operands, table)


class SelfAttention(nn.Module):
    """Multi-head self-attention; where the `cache` collection may be written to, it decodes
    incrementally."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context, numbers: LayerNumbers) -> jax.Array:
        block, c = self.config, self.config.attention
        q, k, v = (project(block, c, name, x) for name in ("query", "key", "value"))
        if c.qk_norm:
            normal = functools.partial(make_norm, block.norm, block.precision)
            q, k = normal("query_norm")(q), normal("key_norm")(k)
        if context.rotations is not None:
            which = 0 if numbers.rotary is None else numbers.rotary
            cosine, sine = (x[which] for x in context.rotations)
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        tokens = Tokens(context.segment_ids, prefix=context.prefix)
        queries, keys = tokens, tokens
        if self.is_mutable_collection("cache"):
            k, v = self._cached(k, v, context)
            queries = Tokens(positions=context.positions)
            keys = Tokens(prefix=self._prefix(context, k.shape[1]))
        num_keys = k.shape[1]
        k, v = self.keys_values(k, v)
        always, bias = k.shape[1] - num_keys, context.bias
        if always and bias is not None:  # keys of adapters have no place that it could go by
            bias = jnp.pad(bias, ((0, 0), (0, 0), (0, 0), (always, 0)))
        operands = Operands(q, k, v, queries, keys, bias, c.scale)
        out = self._attend(numbers.pattern, context, operands, always)
        return project_out(block, c, out)

    def keys_values(self, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is attended to, [B, S, K, D]: a site of adapters, which put keys before these."""
        return k, v

    def _attend(
        self, number: jax.Array | None, context: Context, operands: Operands, always: int
    ) -> jax.Array:
        """Attention by the pattern of this number. Each runs for its own layers alone."""
        c, key, rows = self.config.attention, dropout_rng(self), context.rows

        def attend(
            pattern: Pattern, key: jax.Array | None, rows: jax.Array | None, operands: Operands
        ) -> jax.Array:
            drop = WeightDropout(c.dropout, key, rows)
            return on_kernel(kernel_of(self, c), operands, pattern, self.config.precision, drop)

        more = {"always": always, "shared": context.lead}
        patterns = [dataclasses.replace(each, **more) for each in context.patterns]
        branches = [functools.partial(attend, pattern) for pattern in patterns]
        if number is None:
            return branches[0](key, rows, operands)

        # Checkpointed, for else each layer keeps what the backward passes of all branches need:
        # 677 MiB instead of 167 in 22 layers of 512 tokens.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def switch(number, key, rows, operands):
            return jax.lax.switch(number, branches, key, rows, operands)

        return switch(number, key, rows, operands)

    def _prefix(self, context: Context, slots: int) -> jax.Array | None:
        """Of what a cache holds: the rows' first tokens, which are read in one pass from slot 0, or
        behind what is before all texts."""
        if context.prefix is None:
            return None
        lead, length = context.lead, context.prefix.shape[1]
        return jnp.pad(context.prefix, ((0, 0), (lead, slots - lead - length)))

    def _cached(self, k: jax.Array, v: jax.Array, context: Context) -> tuple[jax.Array, jax.Array]:
        """Writes k, v [B, T, K, D] to their slots; all keys and values [B, S, K, D].

        An empty cache gets as many slots as there are tokens.
        """
        rows = jnp.arange(k.shape[0])[:, None]
        written = []
        for name, new in (("cached_key", k), ("cached_value", v)):
            kept = _kept(self, name, new)
            kept.value = kept.value.at[rows, :, context.positions].set(new)
            written.append(kept.value.swapaxes(1, 2))
        return written[0], written[1]


class CrossAttention(nn.Module):
    """Multi-head attention to the memory: a token sees what is of its own segment there, and keys
    of adapters; it attends to nothing, which gives 0, where that is nothing."""

    config: BlockConfig

    @nn.compact
    def __call__(self, x: jax.Array, context: Context) -> jax.Array:
        block, c, memory = self.config, self.config.cross_attention, context.memory
        assert c is not None
        if memory is None:
            raise UserError(
                "the layers attend to another stack, and nothing gives them one",
                where="cross_attention",
                expected="a memory in the context of the stack",
                got="none",
            )
        q = project(block, c, "query", x)
        k, v = self.keys_values(*self._of_memory(memory))
        always = k.shape[1] - memory.segment_ids.shape[1]
        queries, keys = Tokens(context.segment_ids), Tokens(memory.segment_ids)
        drop = WeightDropout(c.dropout, dropout_rng(self), context.rows)
        operands = Operands(q, k, v, queries, keys, scale=c.scale)
        kernel = kernel_of(self, c)
        out = on_kernel(kernel, operands, Pattern(always=always), block.precision, drop)
        if not always:  # the softmax of a token that sees no key would be over all of them
            sees = context.segment_ids[:, :, None] == memory.segment_ids[:, None, :]
            out = jnp.where(sees.any(-1)[..., None, None], out, 0)
        return project_out(block, c, out)

    def keys_values(self, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As of `SelfAttention`."""
        return k, v

    def _of_memory(self, memory: Memory) -> tuple[jax.Array, jax.Array]:
        """Those of the memory, [B, S, K, D]: made of it, and kept where there is a cache, or what
        the cache has kept of a memory that is given no more."""
        block, c = self.config, self.config.cross_attention
        assert c is not None
        made = []
        for name in ("key", "value"):
            if memory.hidden is None:
                kept: nn.Variable = self.variable("cache", f"memory_{name}", _absent)
                made.append(kept.value.swapaxes(1, 2))
                continue
            new = project(block, c, name, memory.hidden)
            if self.is_mutable_collection("cache"):
                _kept(self, f"memory_{name}", new).value = new.swapaxes(1, 2)
            made.append(new)
        return made[0], made[1]


def _kept(module: nn.Module, name: str, new: jax.Array) -> nn.Variable:
    """The cache's entry of this name, [B, K, S, D], for keys or values such as `new`
    [B, S, K, D]."""
    B, S, K, D = new.shape
    empty = nn.with_logical_partitioning(nn.initializers.zeros, CACHE)
    return module.variable("cache", name, empty, None, (B, K, S, D), new.dtype)


def _absent() -> jax.Array:
    raise UserError(
        "a decoder is given no memory, and its cache has none",
        where="memory.hidden",
        expected="the encoder's hidden states in the first call with a cache",
        got="none",
    )
