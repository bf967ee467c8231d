"""Vectors of texts against each other: what counts as another text, and how far apart they lie."""

import jax
import jax.numpy as jnp

from jaxssl.core.upcast import upcast


def unit(x: jax.Array) -> jax.Array:
    """Vectors [..., H] of length 1, in float32 at least; zeros stay zeros."""
    x = upcast(x)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def products(one: jax.Array, other: jax.Array) -> jax.Array:
    """The dot products [N, M] of vectors [N, H] and [M, H]: as exactly as float32 has them,
    whatever a run asks of its layers. They are small beside those, and the loss multiplies them."""
    return jnp.matmul(one, other.T, precision=jax.lax.Precision.HIGHEST)


def same(one: jax.Array, other: jax.Array) -> jax.Array:
    """bool [N, M]: which keys uint32 [N, 2] and [M, 2] are of equal texts."""
    return jnp.all(one[:, None] == other[None], axis=-1)


def no_negatives(keys: jax.Array) -> jax.Array:
    """Which candidates of the batch are not another answer to a row's first text.

    A candidate is none if it is the row's own second text, or equals it or the first; and the
    second text of another row is none if that row's first text equals this one's.

    Args:
      keys: uint32 [B, K, 2], of each row's texts: the first, its answer, and K - 2 others.

    Returns:
      bool [B, (K - 1) * B]: candidates are the second texts of all rows, then their third, and so
      on. False at a row's own answer, [i, i].
    """
    count = len(keys)
    first, second = keys[:, 0], keys[:, 1]
    candidates = jnp.swapaxes(keys[:, 1:], 0, 1).reshape(-1, 2)
    found = same(second, candidates) | same(first, candidates)
    asked_alike = same(first, first)
    found = found.at[:, :count].set(found[:, :count] | asked_alike)
    return found.at[jnp.arange(count), jnp.arange(count)].set(False)


def alignment(one: jax.Array, other: jax.Array) -> jax.Array:
    """[B]: squared distance of unit vectors [B, H] that belong together (Wang & Isola, 2020)."""
    return jnp.sum(jnp.square(one - other), axis=-1)


def uniformity_terms(vectors: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of exp(-2 |x - y|^2) over pairs of different rows, and their number.

    The logarithm of their quotient is uniformity (Wang & Isola, 2020): 0 where all are one point,
    towards -4 where unit vectors are spread evenly.

    Args:
      vectors: of length 1, [B, H].
      counted: float [B], 0 for rows that are not.
    """
    distance = jnp.maximum(2 - 2 * products(vectors, vectors), 0)
    pairs = counted[:, None] * counted[None] * jnp.triu(jnp.ones_like(distance), 1)
    return jnp.sum(jnp.exp(-2 * distance) * pairs), jnp.sum(pairs)


def effective_rank(vectors: jax.Array, counted: jax.Array) -> jax.Array:
    """exp of the entropy of the singular values, divided by their sum (Roy & Vetterli, 2007): the
    number of directions that vectors [B, H] use; 1 where all are one point.
    """
    values = jnp.linalg.svd(upcast(vectors) * counted[:, None], compute_uv=False)
    share = values / jnp.maximum(jnp.sum(values), 1e-30)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))
