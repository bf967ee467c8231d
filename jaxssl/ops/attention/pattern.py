"""Which keys a query sees, described: a kernel reads the description, and makes a mask if it must.

Shapes: B rows, T queries, S keys.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Which keys of its own segment a query sees. Static and hashable."""

    causal: bool = False
    """Only those up to its own place."""
    window: int | None = None
    """Only those at most so many tokens away, on either side; None is all."""
    prefix: bool = False
    """Also those that the batch marks as a prefix, wherever they are: a prefix LM."""
    always: int = 0
    """So many leading keys are no tokens of the row, and every query sees them."""
    shared: int = 0
    """So many leading tokens of the row are before all its segments: they see each other up to
    their own place and no more, and all see them."""

    def __post_init__(self):
        check_at_least(0, self, "window", "always", "shared")

    def within(self, window: int | None) -> "Pattern":
        """This pattern in a layer that sees no further than `window`."""
        widths = [width for width in (self.window, window) if width is not None]
        return dataclasses.replace(self, window=min(widths, default=None))

    def over(self, length: int) -> "Pattern":
        """The same over rows of `length` tokens: without a window that reaches from end to end."""
        if self.window is None or self.window < length - 1:
            return self
        return dataclasses.replace(self, window=None)


def is_uneven(pattern: Pattern, shards: int) -> bool:
    """Whether the last of so many shards of a row's queries see more keys than the first."""
    return shards > 1 and pattern.causal and pattern.window is None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """The queries, or the keys, of a batch of rows.

    Attributes:
      segment_ids: int32 [B, T]; a query sees keys of its own segment alone. None: all are of one.
      positions: int32 [B, T], their places in the row. None: 0, 1, 2, ... as they come.
      prefix: bool [B, T], of keys: those of a prefix.
    """

    segment_ids: jax.Array | None = None
    positions: jax.Array | None = None
    prefix: jax.Array | None = None

    def places(self, length: int) -> jax.Array:
        """int32 [B or 1, length]."""
        if self.positions is not None:
            return self.positions
        return jnp.arange(length, dtype=jnp.int32)[None]


def visible(
    pattern: Pattern, queries: Tokens, keys: Tokens, num_queries: int, num_keys: int
) -> jax.Array:
    """Which keys each query sees.

    Padding is a segment of its own (0) and sees itself, so that no row of a softmax is empty where
    queries and keys are of the same tokens.

    Args:
      num_keys: with the leading ones that `pattern.always` counts, which `keys` says nothing of.

    Returns:
      bool [B or 1, T, S].
    """
    T, S = num_queries, num_keys - pattern.always
    t, s = queries.places(T)[:, :, None], keys.places(S)[:, None, :]
    seen = s <= t if pattern.causal else jnp.ones((1, T, S), bool)
    if pattern.window is not None:
        seen &= jnp.abs(t - s) <= pattern.window
    if pattern.prefix:
        assert keys.prefix is not None, "a prefix pattern without a prefix"
        seen |= keys.prefix[:, None, :]
    if queries.segment_ids is not None and keys.segment_ids is not None:
        seen &= queries.segment_ids[:, :, None] == keys.segment_ids[:, None, :]
    if pattern.shared:
        seen = jnp.where(s < pattern.shared, s <= t, seen & (t >= pattern.shared))
    return jnp.pad(seen, ((0, 0), (0, 0), (pattern.always, 0)), constant_values=True)
