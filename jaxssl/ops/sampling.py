"""Choosing the next token from logits."""

import jax
import jax.numpy as jnp


def sample(
    key: jax.Array,
    logits: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """One id per row of `logits` [B, V]: int32 [B].

    Args:
      temperature: 0 takes the largest logit.
      top_k: only among the k most likely.
      top_p: only among the fewest most likely whose probabilities reach p (Holtzman et al., 2020).
    """
    logits = logits.astype(jnp.float32)
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if top_k is not None:
        lowest = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    if top_p is not None:
        descending = jnp.sort(logits, axis=-1)[:, ::-1]
        before = jnp.cumsum(jax.nn.softmax(descending, axis=-1), axis=-1)
        before = before - jax.nn.softmax(descending, axis=-1)
        lowest = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1).astype(jnp.int32)
