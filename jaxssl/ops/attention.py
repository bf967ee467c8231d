"""Attention over packed rows.

Shapes: B rows, T queries, S keys, N heads, D width of a head.
"""

import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
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
    precision: Precision,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention; the softmax is in float32 at least.

    Args:
      mask: bool, broadcastable to [B, N, T, S]; False is not attended to.
      precision: says how exactly products are computed; the operands' dtype is taken as it is.
      dropout_key: None in evaluation.

    Returns:
      [B, T, N, D] in the dtype of `v`.
    """
    # Heads before tokens once, here: left to the products, XLA's CPU backend copies for each.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTND, k_BSND, v_BSND))
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    wide = jnp.promote_types(q.dtype, jnp.float32)
    exactly = precision.products
    scores = jnp.einsum("bntd,bnsd->bnts", q, k, precision=exactly, preferred_element_type=wide)
    scores = jnp.where(mask, scores, jnp.finfo(wide).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    weights = dropout(weights, dropout_rate, dropout_key)
    out = jnp.einsum("bnts,bnsd->bntd", weights, v, precision=exactly)
    return out.transpose(0, 2, 1, 3)
