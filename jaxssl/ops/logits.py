"""What may be done to the logits of the next token before one is chosen, [B, V] to [B, V].

Each is the function of that name in `transformers.generation.logits_process`; an id that may not be
chosen has -inf. `history` [B, S] holds the tokens so far, of which the first `lengths` [B] count.
"""

import jax
import jax.numpy as jnp


def penalised(
    logits: jax.Array, history: jax.Array, lengths: jax.Array, penalty: float
) -> jax.Array:
    """Tokens that were there are less likely: a positive logit is divided by the penalty, a
    negative one multiplied (Keskar et al., 2019)."""
    seen = _seen(history, _is_real(history, lengths), logits.shape[-1])
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def without_repeats(
    logits: jax.Array, history: jax.Array, lengths: jax.Array, size: int
) -> jax.Array:
    """No `size` tokens in a row come twice."""
    B, S = history.shape
    real, same = _is_real(history, lengths), jnp.ones((B, S), bool)
    places = jnp.arange(S)
    for back in range(1, size):  # tokens before a place, and before the one that is to come
        last = jnp.take_along_axis(history, jnp.maximum(lengths - back, 0)[:, None], axis=1)
        before = jnp.pad(history, ((0, 0), (back, 0)))[:, :S]
        same &= (before == last) & (places >= back)
    same &= real & (lengths >= size - 1)[:, None]
    return jnp.where(_seen(history, same, logits.shape[-1]), -jnp.inf, logits)


def no_end_before(logits: jax.Array, num_new: jax.Array, ends: jax.Array, least: int) -> jax.Array:
    """No end (ids [K]) while fewer than `least` tokens [B] are new."""
    is_end = jnp.zeros(logits.shape[-1], bool).at[ends].set(True, mode="drop")
    return jnp.where(is_end & (num_new < least)[:, None], -jnp.inf, logits)


def largest(logits: jax.Array, count: int) -> jax.Array:
    """The `count` largest alone."""
    lowest = jax.lax.top_k(logits, min(count, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits < lowest, -jnp.inf, logits)


def nucleus(logits: jax.Array, share: float) -> jax.Array:
    """The fewest most likely ones whose probabilities reach the share (Holtzman et al., 2020)."""
    descending = jnp.sort(logits, axis=-1)[:, ::-1]
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    lowest = jnp.min(jnp.where(before < share, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < lowest, -jnp.inf, logits)


def likely_enough(logits: jax.Array, share: float) -> jax.Array:
    """Those at least so likely as this share of the most likely one's probability (Nguyen et al.,
    2024: min-p)."""
    largest = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.where(logits < largest + jnp.log(share), -jnp.inf, logits)


def _is_real(history: jax.Array, lengths: jax.Array) -> jax.Array:
    return jnp.arange(history.shape[1]) < lengths[:, None]


def _seen(history: jax.Array, chosen: jax.Array, size: int) -> jax.Array:
    """bool [B, size]: which ids are in the chosen places."""
    rows = jnp.arange(history.shape[0])[:, None]
    ids = jnp.where(chosen, history, size)
    return jnp.zeros((history.shape[0], size), bool).at[rows, ids].set(True, mode="drop")
