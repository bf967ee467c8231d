"""Spans of noise in the documents of a row, as T5 draws them (Raffel et al., 2020).

Noise and what is kept are each cut in as many parts as there are spans, every way of cutting as
likely, and the parts stand by turns, what is kept first. So a document of n tokens always has the
same number of noisy tokens and of spans.

Source: google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py,
`random_spans_noise_mask`. There it is a loop over examples on the host; here all documents of a row
are cut at once by one sort, and rows by `jax.vmap`.

Shapes: R tokens of a row; documents count from 1 in it, 0 is padding.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.ops.ragged import lengths_of


@dataclass(frozen=True)
class SpanCounts:
    """How many tokens and spans of a document are noise.

    Attributes:
      rate: share of its tokens.
      mean_span: tokens of a span, in the mean.
    """

    rate: float
    mean_span: float

    def noise(self, lengths: np.ndarray) -> np.ndarray:
        """Noisy tokens of documents of so many: rounded to even, at least 1 and all but 1."""
        rounded = np.round(np.asarray(lengths) * self.rate).astype(np.int32)
        return np.minimum(np.maximum(rounded, 1), np.maximum(np.asarray(lengths) - 1, 0))

    def spans(self, lengths: np.ndarray) -> np.ndarray:
        """Their spans: at least 1, and no more than tokens of either kind."""
        noise = self.noise(lengths)
        kept = np.asarray(lengths) - noise
        rounded = np.maximum(np.round(noise / self.mean_span).astype(np.int32), 1)
        return np.minimum(np.minimum(rounded, noise), np.maximum(kept, 0))


class Spans(NamedTuple):
    """Of one row.

    Attributes:
      noisy: bool [R], whether a token is noise.
      number: int32 [R], the span of a noisy token, from 0 on in its document.
      noise: int32 [R + 1], of each document, how many tokens are.
    """

    noisy: jax.Array
    number: jax.Array
    noise: jax.Array


def random_spans(key: jax.Array, documents: jax.Array, noise: jax.Array, spans: jax.Array) -> Spans:
    """Draws the spans of one row.

    Args:
      documents: int32 [R], ascending, padding (0) at the end.
      noise, spans: int32 [R + 1], of each document, by its number, how many noisy tokens and spans
        there are (`SpanCounts`).
    """
    R, s = documents.shape[0], documents
    lengths = lengths_of(documents)
    begins = jnp.cumsum(lengths) - lengths
    # In each document, number the noise first and what is kept behind it: two groups, each cut at
    # spans - 1 of the places between its tokens.
    place = jnp.arange(R) - begins[s]
    is_kept = place >= noise[s]
    group_begins = begins[s] + jnp.where(is_kept, noise[s], 0)
    may_cut = (jnp.arange(R) > group_begins) & (s > 0)
    drawn = jnp.where(may_cut, jax.random.uniform(key, (R,)), 2.0)
    group = jnp.where(s > 0, 2 * s + is_kept, 2 * R + 2)
    *_, order = jax.lax.sort((group, drawn, jnp.arange(R)), num_keys=2)
    rank = jnp.zeros(R, jnp.int32).at[order].set(jnp.arange(R, dtype=jnp.int32)) - group_begins
    cuts = jnp.cumsum(may_cut & (rank < spans[s] - 1))
    part = cuts - cuts[group_begins]
    # Where each part begins in its group, at its number behind the beginning of the document.
    is_first = jnp.pad(part[1:] != part[:-1], (1, 0)) | (jnp.arange(R) == group_begins)
    slot, outside = begins[s] + part, R

    def starts(kept: bool) -> jax.Array:
        there = is_first & (s > 0) & (is_kept == kept)
        values = place - (noise[s] if kept else 0)
        found = jnp.zeros(R + 1, jnp.int32)
        return found.at[jnp.where(there, slot, outside)].set(values, mode="drop")

    noise_before, kept_before = starts(False), starts(True)
    is_last = part == spans[s] - 1
    kept_to_here = jnp.where(is_last, (lengths - noise)[s], kept_before[slot + 1])
    where = jnp.where(is_kept, place - noise[s] + noise_before[slot], place + kept_to_here)
    where = jnp.where(s > 0, begins[s] + where, outside)
    noisy = jnp.zeros(R, bool).at[where].set(~is_kept & (s > 0), mode="drop")
    number = jnp.zeros(R, jnp.int32).at[where].set(part.astype(jnp.int32), mode="drop")
    return Spans(noisy, number, noise)
