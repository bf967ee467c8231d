"""Attention over packed rows.

Shapes: B rows, T queries, S keys, N heads, D width of a head.
"""

import jax
import jax.numpy as jnp

from jaxssl.ops.dropout import dropout


def segment_mask(segments_BT: jax.Array, *, causal: bool) -> jax.Array:
    """Which keys each query may see: those of its own document, and none after it if causal.

    Padding (segment 0) sees padding alone, so that no row of the softmax is empty.

    Returns:
      bool [B, 1, T, T].
    """
    mask = segments_BT[:, :, None] == segments_BT[:, None, :]
    if causal:
        T = segments_BT.shape[1]
        mask &= jnp.tril(jnp.ones((T, T), bool))
    return mask[:, None]


def attention(
    q_BTND: jax.Array,
    k_BSND: jax.Array,
    v_BSND: jax.Array,
    mask: jax.Array,
    *,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention; the softmax is in float32 at least.

    Args:
      mask: bool, broadcastable to [B, N, T, S]; False is not attended to.
      dropout_key: None in evaluation.

    Returns:
      [B, T, N, D] in the dtype of `v`.
    """
    q_BTND = q_BTND * jnp.asarray(q_BTND.shape[-1] ** -0.5, q_BTND.dtype)
    wide = jnp.promote_types(q_BTND.dtype, jnp.float32)
    scores = jnp.einsum("btnd,bsnd->bnts", q_BTND, k_BSND, preferred_element_type=wide)
    scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BSND.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    return jnp.einsum("bnts,bsnd->btnd", weights, v_BSND)
