"""Attention in plain XLA operations, on every platform: the one kernel that makes a mask.

Shapes: B rows, T queries, S keys, N heads, K heads of keys and values, D width of a head.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.ops.attention import local
from jaxssl.ops.attention.operands import Operands, WeightDropout
from jaxssl.ops.attention.pattern import Pattern, visible


def attend(
    operands: Operands, pattern: Pattern, precision: Precision, weight_dropout: WeightDropout
) -> jax.Array:
    """Scaled dot-product attention; the softmax is in float32 at least.

    Where a window is narrower than the row, only the blocks around the diagonal are computed.

    Args:
      precision: says how exactly products are computed; the operands' dtype is taken as it is.

    Returns:
      [B, T, N, D] in the dtype of `v`.
    """
    # Heads before tokens once, here: left to the products, XLA's CPU backend copies for each.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (operands.q, operands.k, operands.v))
    scale = q.shape[-1] ** -0.5 if operands.scale is None else operands.scale
    q = q if scale == 1 else q * jnp.asarray(scale, q.dtype)
    (B, num_heads, T, D), num_kv_heads = q.shape, k.shape[1]
    S, shared = k.shape[2], num_heads // num_kv_heads
    one_by_one = T == 1 and shared > 1
    if one_by_one:  # as many queries of each head of keys, which are not copied for each token
        q = q.reshape(B, num_kv_heads, shared, D)
    elif shared > 1:
        k, v = (jnp.repeat(x, shared, axis=1) for x in (k, v))
    queries, keys, bias = operands.queries, operands.keys, operands.bias
    in_order = queries.positions is None and keys.positions is None and T == S
    if bias is None and in_order and local.is_cheaper(pattern, T):
        blocks = local.Blocks(pattern, T)
        parts = blocks.queries(q), blocks.keys(k), blocks.keys(v)
        drop = functools.partial(weight_dropout.apply, bits=blocks.bits)
        out = blocks.joined(_weigh(*parts, blocks.visible(queries, keys), None, precision, drop))
    else:
        mask = visible(pattern, queries, keys, T, S)[:, None]
        if one_by_one and bias is not None:
            bias = jnp.broadcast_to(bias, (len(bias), num_heads, 1, S))
            bias = bias.reshape(-1, num_kv_heads, shared, S)
        out = _weigh(q, k, v, mask, bias, precision, weight_dropout.apply)
        out = out.reshape(B, num_heads, T, D)
    return out.transpose(0, 2, 1, 3)


def _weigh(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    bias: jax.Array | None,
    precision: Precision,
    drop: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Sums of values [..., S, D] by the softmax of scores of q [..., T, D] and k [..., S, D]."""
    wide, exactly = jnp.promote_types(q.dtype, jnp.float32), precision.products
    product = functools.partial(jnp.einsum, precision=exactly)
    scores = product("...td,...sd->...ts", q, k, preferred_element_type=wide)
    if bias is not None:
        scores = scores + bias.astype(wide)
    scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return product("...ts,...sd->...td", drop(weights), v)
