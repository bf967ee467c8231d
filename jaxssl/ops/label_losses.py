"""Losses over a few labels, one number a row, in float32 at least."""

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast


def softmax_loss(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, focal: float = 0.0
) -> jax.Array:
    """Cross entropy [...] of logits [..., K] and labels int [...].

    Args:
      smoothing: e of the target (1 - e) * one-hot + e / K, over all K labels (Szegedy et al.,
        2016; as Hugging Face and Optax have it, not fairseq's e / (K - 1) over the others).
      focal: gamma of (1 - p)^gamma * loss, p of the right label (Lin et al., 2017).
    """
    log_p = jax.nn.log_softmax(upcast(logits), axis=-1)
    right = jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
    loss = -(1 - smoothing) * right - smoothing * jnp.mean(log_p, axis=-1)
    return loss * _focal(right, focal)


def sigmoid_loss(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, focal: float = 0.0
) -> jax.Array:
    """Binary cross entropy [...], the mean over K independent labels, 0 or 1, [..., K].

    Args:
      smoothing: e of the targets (1 - e) * y + e / 2.
      focal: gamma, as in `softmax_loss`, label by label.
    """
    logits, labels = upcast(logits), labels.astype(jnp.float32)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    target = (1 - smoothing) * labels + smoothing / 2
    right = jnp.where(labels > 0.5, yes, no)
    return jnp.mean(-(target * yes + (1 - target) * no) * _focal(right, focal), axis=-1)


def squared_loss(predicted: jax.Array, wanted: jax.Array) -> jax.Array:
    """(predicted - wanted)^2, [...]."""
    return jnp.square(upcast(predicted) - wanted)


def symmetric_divergence(one: jax.Array, other: jax.Array) -> jax.Array:
    """KL(p || q) + KL(q || p) of two softmaxes over logits [..., K]: [...]."""
    log_p, log_q = (jax.nn.log_softmax(upcast(x), axis=-1) for x in (one, other))
    return jnp.sum((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q), axis=-1)


def symmetric_binary_divergence(one: jax.Array, other: jax.Array) -> jax.Array:
    """The same of K independent labels, summed over them."""
    one, other = upcast(one), upcast(other)
    difference = jax.nn.sigmoid(one) - jax.nn.sigmoid(other)
    return jnp.sum(difference * (one - other), axis=-1)


def _focal(log_p: jax.Array, gamma: float) -> jax.Array | float:
    return (1 - jnp.exp(log_p)) ** gamma if gamma else 1.0
