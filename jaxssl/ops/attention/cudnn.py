"""cuDNN's attention on NVIDIA GPUs, by JAX's own call: no scores are written to memory.

The kernel itself leaves out what a causal pattern, with or without a window, does not see. All else
that a query may not see is a mask. Heads of keys that several heads of queries share are not
repeated. It knows one device: `models.attention` calls it on each shard of rows and heads.

Documents of a row are told apart by a mask [B, 1, T, S] for all heads, which the call turns into
numbers that are added to scores: 2 B T S bytes, 32 MiB for 16 rows of 1,024 tokens, where the
scores of 12 heads would be 768 MiB of float32. It does not depend on the layer, so a loop over
layers makes it once. In jax 0.10.2 the backward pass of each layer writes as much again, a gradient
of the mask that nobody reads; that is mended since (jax-ml/jax#39512).

The other way is cuDNN's packing, which reads where each document begins and leaves out the blocks
between them. It is not taken: JAX has it in a private module alone; GPUs before Hopper lack it; the
softmax's statistics are kept M times over, 4 B M N T bytes, where M bounds the documents of a row
(48 MiB for M = 64, 768 MiB for as many as there are tokens), and what is beyond M is lost; and
jax 0.10.2 finds keys of shared heads by the number of the queries' heads, which is wrong.

Shapes: B rows, T queries, S keys, N heads, K heads of keys and values, D width of a head.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.ops.attention.operands import Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern, visible

MULTIPLE, WIDEST = 8, 128
"""Of the width of heads. Hopper alone takes wider ones in training."""
OLDEST = (8, 0)
"""Compute capability of the first GPUs that have it: Ampere."""
FORWARD, BACKWARD = (f"dot_product_attention_{way}_wrapper" for way in ("fwd", "bwd"))
"""JAX's primitives. The first gives outputs, and the statistics that the second reads."""


def attend(
    operands: Operands,
    pattern: Pattern,
    precision: Precision,
    weight_dropout: WeightDropout,
    *,
    table: jax.Array | None = None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """As `xla.attend`, of what `kernels` lets through; the softmax is in float32.

    Args:
      table: where the queries are in their rows, [1, T]; None is from the first one on.
      implementation: of JAX's call. "xla" computes the same anywhere: for tests.
    """
    del precision, weight_dropout  # no call with exact products or dropout comes here
    T, S = operands.q.shape[1], operands.k.shape[1]
    is_inside = table is None and T == S and pattern == Pattern(causal=True, window=pattern.window)
    window = pattern.window if is_inside else None
    rest = Pattern() if is_inside else pattern
    mask = None
    if rest != Pattern() or _has_segments(operands):
        queries = dataclasses.replace(operands.queries, positions=table)
        mask = visible(rest, queries, operands.keys, T, S)[:, None]
    out = jax.nn.dot_product_attention(
        operands.q,
        operands.k,
        operands.v,
        mask=mask,
        scale=operands.scale,
        is_causal=is_inside,
        local_window_size=None if window is None else (window, 0),
        implementation=implementation,
    )
    return out.astype(operands.v.dtype)


def make_table(length: int) -> jax.Array:
    """The places of a row's queries, for devices that have a part of them each. A causal pattern is
    then a mask, for the kernel takes the first query of a part for that of the row."""
    return jnp.arange(length, dtype=jnp.int32)[None]


def is_kept(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: what the forward kernel gives is kept, so that the backward
    pass does not run it again."""
    return primitive.name == FORWARD


def _has_segments(operands: Operands) -> bool:
    return all(x.segment_ids is not None for x in (operands.queries, operands.keys))
