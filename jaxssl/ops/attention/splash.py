"""Splash attention on TPUs: JAX's Pallas kernel, which never writes scores to memory.

It reads a static mask (causal, a window) block by block and leaves out blocks in which nothing is
seen; segments are compared inside it. Heads of keys that several heads of queries share are not
repeated. It knows one device: `models.attention` calls it on each shard of rows and heads.

Shapes: B rows, T queries, S keys, N heads, K heads of keys and values, D width of a head.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import AbstractMesh, NamedSharding

from jaxssl.core.precision import Precision
from jaxssl.ops.attention.operands import Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern, is_uneven

LANES = 128
"""Blocks are a multiple of it."""
BLOCK = 512
"""Queries, and keys, of a block at most: wider ones leave memory for less at once, narrower ones
read keys more often."""
KEPT = "attention_output"
"""What the outputs are called for `remat`: kept, they need no second pass through the kernel."""


def attend(
    operands: Operands,
    pattern: Pattern,
    precision: Precision,
    weight_dropout: WeightDropout,
    *,
    table: Any = None,
) -> jax.Array:
    """As `xla.attend`, of what `kernels` lets through; the softmax is in float32.

    Args:
      table: of the pattern, for these heads and tokens; None has it made here.
    """
    del precision, weight_dropout  # no call with exact products or dropout comes here
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (operands.q, operands.k, operands.v))
    scale = q.shape[-1] ** -0.5 if operands.scale is None else operands.scale
    q = q if scale == 1 else q * jnp.asarray(scale, q.dtype)
    if table is None:
        table = make_table(pattern, q.shape[1], q.shape[2], k.shape[2])
    ours, theirs = operands.queries.segment_ids, operands.keys.segment_ids
    if ours is None or theirs is None:
        out = jax.vmap(table)(q, k, v)
    else:
        out = jax.vmap(table)(q, k, v, kernels.SegmentIds(ours, theirs))
    return out.astype(v.dtype).transpose(0, 2, 1, 3)


def make_table(
    pattern: Pattern, num_heads: int, T: int, S: int, *, shards: int = 1, interpret: bool = False
) -> Any:
    """JAX's kernel with what it looks up: which blocks of S keys each block of T queries sees.

    Args:
      shards: that the queries lie in, each on a device; in the order of `shared_out` where the
        pattern is uneven over them.
      interpret: run it in Python, on any device: for tests.
    """
    mask, together = _mask(pattern, T, S), T // shards
    if is_uneven(pattern, shards):
        mask.q_sequence = shared_out(T, shards)
        if together // 2 % LANES == 0:  # no block has queries of both halves
            together //= 2
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * num_heads),
        block_sizes=_blocks(together, S),
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=KEPT,
        interpret=interpret,
    )


def lies(table: Any, spec: Any) -> Any:
    """PartitionSpecs in the place of a table's arrays, for one of heads and queries."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    # Splash asks for shapes of shards, which a mesh has not where a function runs on each already.
    plain = AbstractMesh(mesh.axis_sizes, mesh.axis_names)
    return table.manual_sharding_spec(NamedSharding(plain, spec))


def shared_out(T: int, shards: int) -> np.ndarray:
    """The places int32 [T] of queries that shards have after they exchanged their second halves,
    each with the one as far from the other end (`parallel.axes.exchanged`)."""
    halves = np.arange(T, dtype=np.int32).reshape(shards, 2, -1)
    return np.stack([halves[:, 0], halves[::-1, 1]], axis=1).reshape(-1)


def _mask(pattern: Pattern, T: int, S: int) -> Any:
    """What is seen within a segment."""
    if pattern.window is not None:
        after = 0 if pattern.causal else pattern.window
        return masks.LocalMask((T, S), (pattern.window, after), offset=0)
    return masks.CausalMask((T, S)) if pattern.causal else masks.FullMask((T, S))


def _blocks(T: int, S: int) -> kernels.BlockSizes:
    q, kv = block(T), block(S)
    return kernels.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_q_dq=q,
        block_kv_dq=kv,
    )


def block(length: int) -> int:
    """The widest block, at most `BLOCK`, that divides a length, a multiple of `LANES`."""
    return next(size for size in range(BLOCK, 0, -LANES) if length % size == 0)
