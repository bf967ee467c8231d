"""Attention over packed rows.

Shapes: B rows, T queries, S keys, N heads, K heads of keys and values, D width of a head.
"""

import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.ops.dropout import dropout


def segment_mask(
    segments_BT: jax.Array, *, causal: bool, window: int | jax.Array | None = None
) -> jax.Array:
    """Which keys each query may see: those of its own document, and none after it if causal.

    Padding (segment 0) sees padding alone, so that no row of the softmax is empty.

    Args:
      window: how many tokens on each side are seen besides the token itself; None is all.

    Returns:
      bool [B, 1, T, T].
    """
    mask = segments_BT[:, :, None] == segments_BT[:, None, :]
    T = segments_BT.shape[1]
    if causal:
        mask &= jnp.tril(jnp.ones((T, T), bool))
    if window is not None:
        places = jnp.arange(T)
        mask &= jnp.abs(places[:, None] - places) <= window
    return mask[:, None]


def cached_mask(
    positions_BT: jax.Array, length: int, window: int | jax.Array | None = None
) -> jax.Array:
    """Which of `length` cached keys each new query may see: a query at position p the slots up to
    p, and none further back than `window`.

    Rows fill their slots without gaps, so whatever padding left behind a row's end is overwritten
    before it can be seen.

    Returns:
      bool [B, 1, T, length].
    """
    slots = jnp.arange(length)
    mask = slots <= positions_BT[:, :, None]
    if window is not None:
        mask &= slots >= positions_BT[:, :, None] - window
    return mask[:, None]


def attention(
    q_BTND: jax.Array,
    k_BSKD: jax.Array,
    v_BSKD: jax.Array,
    mask: jax.Array,
    *,
    precision: Precision,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention; the softmax is in float32 at least.

    Head n of the queries reads head n * K // N of keys and values.

    Args:
      mask: bool, broadcastable to [B, N, T, S]; False is not attended to.
      precision: says how exactly products are computed; the operands' dtype is taken as it is.
      dropout_key: None in evaluation.

    Returns:
      [B, T, N, D] in the dtype of `v`.
    """
    # Heads before tokens once, here: left to the products, XLA's CPU backend copies for each.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTND, k_BSKD, v_BSKD))
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    num_heads, num_kv_heads = q.shape[1], k.shape[1]
    if num_kv_heads < num_heads:
        k, v = (jnp.repeat(x, num_heads // num_kv_heads, axis=1) for x in (k, v))
    wide = jnp.promote_types(q.dtype, jnp.float32)
    exactly = precision.products
    scores = jnp.einsum("bntd,bnsd->bnts", q, k, precision=exactly, preferred_element_type=wide)
    scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    out = jnp.einsum("bnts,bnsd->bntd", weights, v, precision=exactly)
    return out.transpose(0, 2, 1, 3)
