"""How well scores part two kinds, as sums that can be added up: precision, recall, area."""

import jax
import jax.numpy as jnp
import numpy as np

BINS = 1024
"""Of probabilities. The area under the curve is off by at most what shares a bin."""


def separation(
    score: jax.Array, positive: jax.Array, weights: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Metrics (sum, weight) of scores (logits) of two kinds.

    Args:
      score: float [...]; above 0 means positive.
      positive: 1 or 0, [...].
      weights: float [...]; 0 leaves one out.

    Returns:
      "accuracy", "precision", "recall", and "auc", whose sum is a histogram of the positive ones
      and whose weight is that of the others [BINS]; see `area`.
    """
    score, positive = jnp.ravel(score), jnp.ravel(positive) * jnp.ravel(weights)
    negative = jnp.ravel(weights) - positive
    said = (score > 0).astype(weights.dtype)
    bins = jnp.clip((jax.nn.sigmoid(score) * BINS).astype(jnp.int32), 0, BINS - 1)

    def histogram(counts):
        return jnp.zeros(BINS, weights.dtype).at[bins].add(counts)

    right = jnp.sum(said * positive)
    return {
        "accuracy": (right + jnp.sum((1 - said) * negative), jnp.sum(positive + negative)),
        "precision": (right, jnp.sum(said * (positive + negative))),
        "recall": (right, jnp.sum(positive)),
        "auc": (histogram(positive), histogram(negative)),
    }


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """The area under the ROC curve of two histograms of scores [BINS]: the probability that a
    positive one scores higher than a negative one, ties as a half. NaN if one has none.
    """
    positive, negative = np.asarray(positive, np.float64), np.asarray(negative, np.float64)
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float(positive @ (below + negative / 2) / pairs) if pairs else float("nan")
