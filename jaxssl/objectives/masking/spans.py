"""Spans of words (SpanBERT, Joshi et al., 2020)."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.objectives.masking.units import Chosen, Row, Units, words_of


@dataclass(frozen=True, kw_only=True)
class Spans(Units):
    """Spans of whole words, until the count is reached exactly; the last one is cut.

    Source: facebookresearch/SpanBERT, pretraining/fairseq/data/masking.py. A span's length is drawn
    from a geometric distribution cut at `longest`, its place is uniform over the tokens that are
    not chosen yet. Spans may overlap; those that touch are one.
    """

    name: Literal["spans"] = "spans"
    """What is chosen as a whole."""
    stop: float = 0.2
    """Probability that a span ends behind a word; 0.2 gives 3.8 words on average."""
    longest: int = 10
    """Most words of a span."""

    def __post_init__(self):
        check_at_least(1, self, "longest")
        if not 0 < self.stop < 1:
            raise UserError(
                "not a probability to end",
                where="stop",
                expected="above 0 and below 1",
                got=self.stop,
            )

    @property
    def shares(self) -> np.ndarray:
        """The probability of each length from 1 on, float64 [longest]."""
        weights = self.stop * (1 - self.stop) ** np.arange(self.longest)
        return weights / weights.sum()

    def choose(self, key: jax.Array, row: Row) -> Chosen:
        """Draws spans until every document's quota is used up."""
        T = row.segment_ids.shape[0]
        words, below = words_of(row), jnp.asarray(np.cumsum(self.shares)[:-1], jnp.float32)
        documents = jnp.where(row.candidates, row.segment_ids, 0)

        def is_open(chosen, left):
            return row.candidates & ~chosen & (left[documents] > 0)

        def more(carry):
            _, chosen, left = carry
            return jnp.any(is_open(chosen, left))

        def draw(carry):
            number, chosen, left = carry
            length_key, place_key = jax.random.split(jax.random.fold_in(key, number))
            length = 1 + jnp.sum(jax.random.uniform(length_key) > below)
            anchor = _one_of(place_key, is_open(chosen, left))
            first, document = words.number[anchor], documents[anchor]
            inside = (words.number >= first) & (words.number < first + length)
            inside &= words.stretch[words.number] == words.stretch[first]
            new = inside & row.candidates & ~chosen
            new &= jnp.cumsum(new) <= left[document]
            return number + 1, chosen | new, left.at[document].add(-jnp.sum(new))

        start = (jnp.asarray(0, jnp.int32), jnp.zeros(T, bool), row.quota)
        _, chosen, _ = jax.lax.while_loop(more, draw, start)
        return Chosen(chosen, chosen & ~_follows(chosen, row.segment_ids))


def _one_of(key: jax.Array, allowed: jax.Array) -> jax.Array:
    """The place of one of the True of `allowed` [T], each as likely."""
    count = jnp.cumsum(allowed)
    return jnp.searchsorted(count, jax.random.randint(key, (), 0, jnp.maximum(count[-1], 1)) + 1)


def _follows(chosen: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Whether the token before is chosen, too, and of the same document: bool [T]."""
    same = chosen[:-1] & (segment_ids[1:] == segment_ids[:-1])
    return jnp.concatenate([jnp.zeros(1, bool), same])
