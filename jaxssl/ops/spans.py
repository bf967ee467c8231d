"""The best spans of a row by the scores of their ends."""

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast


def best_spans(
    start: jax.Array,
    end: jax.Array,
    may_start: jax.Array,
    may_end: jax.Array,
    *,
    longest: int,
    count: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `count` spans (i, j), i <= j < i + longest, of the highest start[i] + end[j].

    Exact: all T * longest spans are scored, in a band [B, T, longest], where BERT's script joins
    the best starts with the best ends and may miss one.

    Args:
      start: scores of a span that starts here [B, T].
      end: scores of a span that ends here [B, T].
      may_start: bool [B, T].
      may_end: bool [B, T].
      longest: most tokens of a span.
      count: how many spans.

    Returns:
      scores (float32, best first), first and last position (inclusive), each [B, count]. Where
      there are fewer spans than `count`, the rest has score -inf and positions that mean nothing.
    """
    length = start.shape[1]
    longest = min(longest, length)
    start = jnp.where(may_start, upcast(start), -jnp.inf)
    end = jnp.where(may_end, upcast(end), -jnp.inf)
    end = jnp.pad(end, ((0, 0), (0, longest - 1)), constant_values=-jnp.inf)
    reach = jnp.arange(length)[:, None] + jnp.arange(longest)
    band = (start[..., None] + end[:, reach]).reshape(len(start), -1)
    missing = max(0, count - band.shape[1])
    band = jnp.pad(band, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    scores, found = jax.lax.top_k(band, count)
    first = found // longest
    return scores, first, first + found % longest
