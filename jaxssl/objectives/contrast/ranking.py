"""Ranking a row's answer above those of the other rows of the batch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_finite
from jaxssl.objectives.contrast.base import Compared, Scaled, Texts
from jaxssl.ops.contrast import no_negatives, products, unit


@dataclass(frozen=True, kw_only=True)
class Ranking(Scaled):
    """Multiple negatives ranking (InfoNCE): the cross entropy of a row's second text among the
    second texts, and the negatives, of all rows, by their cosine with its first.

    Sources: sentence-transformers, losses/multiple_negatives_ranking.py; SimCSE, simcse/models.py,
    for `hard_negative_weight`. Departures: texts that are equal, and answers to an equal first
    text, are not told from each other: they are left out, and counted.
    """

    reads_other_rows: ClassVar[bool] = True

    name: Literal["ranking"] = "ranking"
    """The loss."""
    symmetric: bool = False
    """Half of it is the cross entropy of the first text among the first texts, by its second."""
    hard_negative_weight: float = 0.0
    """Added to the logits of a row's own negatives: SimCSE's, the logarithm of how often each
    counts. Below 0 they count less."""

    def __post_init__(self):
        super().__post_init__()
        check_finite(self, "hard_negative_weight")

    def sums(self, texts: Texts) -> Compared:
        """Summed cross entropy, how often the answer is first, and how many candidates a row has
        and lacks."""
        vectors, count = unit(texts.vectors), len(texts.vectors)
        candidates = jnp.swapaxes(vectors[:, 1:], 0, 1).reshape(-1, vectors.shape[-1])
        scores = products(vectors[:, 0], candidates) * texts.scale
        scores = scores + self.hard_negative_weight * _own_negatives(texts, scores.dtype)
        left_out = no_negatives(texts.keys)
        there = jnp.tile(texts.real, texts.vectors.shape[1] - 1)[None] > 0
        loss, right = _told(scores, there & ~left_out, texts)
        if self.symmetric:
            back = _told(scores[:, :count].T, there[:, :count] & ~left_out[:, :count].T, texts)[0]
            loss = (loss + back) / 2
        rows = jnp.sum(texts.counted)
        missing = jnp.sum((there & left_out) * texts.counted[:, None])
        return Compared(
            loss, {"accuracy": (right, rows), "equal_texts": (missing.astype(loss.dtype), rows)}
        )


def _own_negatives(texts: Texts, dtype: jax.typing.DTypeLike) -> jax.Array:
    """1 where a candidate is a negative of the row itself: [B, (K - 1) * B]."""
    own = jnp.eye(len(texts.vectors), dtype=dtype)
    count = texts.vectors.shape[1] - 1
    return jnp.concatenate([jnp.zeros_like(own), *[own] * (count - 1)], axis=1)


def _told(scores: jax.Array, there: jax.Array, texts: Texts) -> tuple[jax.Array, jax.Array]:
    """The summed cross entropy of each row's own text, and how often it has the largest score.

    Args:
      scores: [B, C]; a row's own is at [i, i].
      there: bool, which of them a row is told from.
    """
    padding = texts.real[:, None] == 0  # a row of padding is told from nothing
    scores = jnp.where(there | padding, scores, -jnp.inf)
    scores = jnp.where(padding, 0.0, scores)
    own = jnp.diagonal(jax.nn.log_softmax(scores))
    right = jnp.argmax(scores, axis=1) == jnp.arange(len(scores))
    return -jnp.sum(own * texts.counted), jnp.sum(right * texts.counted)
