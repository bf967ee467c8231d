"""A list of the only texts that may be written: a tree of their tokens, walked on device.

Shapes: M nodes, C children of a node at most, B rows, V ids.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError


class Outputs(NamedTuple):
    """The tree; node 0 is where all begin.

    Attributes:
      tokens: int32 [M, C], what may follow at each node; -1 is nothing.
      nodes: int32 [M, C], where that leads.
    """

    tokens: jax.Array | np.ndarray
    nodes: jax.Array | np.ndarray


def make_outputs(texts: Sequence[Any], end: int) -> Outputs:
    """The tree of texts, each of which ends with the id `end`.

    Raises:
      UserError: there is no text, or an empty one.
    """
    if not texts or not all(len(text) for text in texts):
        raise UserError(
            "the outputs to choose from are none, or one is empty",
            where="outputs",
            expected="texts of at least one token",
            got=f"{len(texts)} texts",
        )
    children: list[dict[int, int]] = [{}]
    for text in texts:
        node = 0
        for token in (*map(int, text), end):
            if token not in children[node]:
                children[node][token] = len(children)
                children.append({})
            node = children[node][token]
    width = max(1, *(len(each) for each in children))
    tokens = np.full((len(children), width), -1, np.int32)
    nodes = np.zeros_like(tokens)
    for number, each in enumerate(children):
        tokens[number, : len(each)] = list(each)
        nodes[number, : len(each)] = list(each.values())
    return Outputs(tokens, nodes)


def allowed(outputs: Outputs, node: jax.Array, size: int) -> jax.Array:
    """bool [B, V]: which ids may come next; at the end of a text all, which nobody reads."""
    following = jnp.asarray(outputs.tokens)[node]
    rows = jnp.arange(node.shape[0])[:, None]
    at = jnp.where(following >= 0, following, size)
    may = jnp.zeros((node.shape[0], size), bool).at[rows, at].set(True, mode="drop")
    return may | (following < 0).all(axis=1, keepdims=True)


def followed(outputs: Outputs, node: jax.Array, token: jax.Array) -> jax.Array:
    """The node [B] behind each token [B]."""
    is_it = jnp.asarray(outputs.tokens)[node] == token[:, None]
    found = jnp.where(is_it, jnp.asarray(outputs.nodes)[node], 0)
    return found.sum(axis=1).astype(jnp.int32)
