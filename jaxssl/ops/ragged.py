"""Texts of a row that become shorter or longer: where each token comes to stand.

Shapes: R tokens of the row as it was; texts are numbered from 1 on, 0 is padding.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Side = tuple[jax.Array, jax.Array, jax.Array]
"""Tokens, numbers of texts and positions of a row, int32; see `Places.side`."""


def lengths_of(texts: jax.Array) -> jax.Array:
    """How many tokens [R] each text has, by its number: int32 [R + 1], 0 of padding."""
    return jnp.zeros(len(texts) + 1, jnp.int32).at[texts].add(1).at[0].set(0)


def random_ranks(key: jax.Array, groups: jax.Array, there: jax.Array) -> jax.Array:
    """The place of each item among those of its group, in a random order, from 0 on: int32 [N].

    Args:
      groups: int32 [N], ascending.
      there: bool [N], the items that are ordered; all others of a group come behind them.
    """
    here = jnp.arange(len(groups), dtype=jnp.int32)
    drawn = jnp.where(there, jax.random.uniform(key, groups.shape), 2.0)
    *_, order = jax.lax.sort((groups, drawn, here), num_keys=2)
    is_first = jnp.pad(groups[1:] != groups[:-1], (1, 0), constant_values=True)
    begins = jax.lax.cummax(jnp.where(is_first, here, 0))
    return jnp.zeros_like(here).at[order].set(here) - begins


class Places(NamedTuple):
    """Of one row, where things come to stand.

    Attributes:
      last: int32 [R], the last token that a token becomes.
      begins, ends: int32 [R + 1], the first token of each text, and the one that ends it.
      has_end: bool [R + 1], whether one does.
    """

    last: jax.Array
    begins: jax.Array
    ends: jax.Array
    has_end: jax.Array

    @classmethod
    def of(cls, counts: jax.Array, texts: jax.Array, has_end: jax.Array) -> "Places":
        """
        Args:
          counts: int32 [R], how many tokens a token becomes; 0 of padding.
          texts: int32 [R], ascending, padding at the end.
          has_end: bool [R + 1], whether a token is put behind a text.
        """
        of_text = jnp.zeros(len(has_end), jnp.int32).at[texts].add(counts).at[0].set(0)
        ended = has_end.astype(jnp.int32).at[0].set(0)
        before = jnp.cumsum(ended) - ended
        ends = jnp.cumsum(of_text) + before
        return cls(
            last=jnp.cumsum(counts) - 1 + before[texts],
            begins=ends - of_text,
            ends=ends,
            has_end=ended > 0,
        )

    def side(
        self,
        items: Iterable[tuple[jax.Array, jax.Array, jax.Array]],
        texts: jax.Array,
        size: int,
        *,
        end: int,
        pad: int,
    ) -> Side:
        """A row of `size` tokens; what has no room in it is left out.

        Args:
          items: (place, whether there is one, token), each [R].
          texts: as in `of`.
          end: the token that ends texts.
          pad: the one behind the last text.
        """
        row, number = jnp.full(size, pad, jnp.int32), jnp.zeros(size, jnp.int32)
        numbers = jnp.arange(len(self.has_end), dtype=jnp.int32)
        ends = (self.ends, self.has_end, jnp.full(len(numbers), end, jnp.int32))
        for (place, there, token), text in [*((i, texts) for i in items), (ends, numbers)]:
            at = jnp.where(there, place, size)
            row = row.at[at].set(token, mode="drop")
            number = number.at[at].set(text, mode="drop")
        positions = jnp.arange(size) - self.begins[number]
        return row, number, jnp.where(number > 0, positions, 0)
