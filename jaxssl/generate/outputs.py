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
    return _arrays(children)


def make_sequences(first: Sequence[Any], others: Sequence[Any], end: int) -> Outputs:
    """The graph of texts that are one of `first` and then any number of `others`; `end` ends them.

    Where one is the beginning of another, both are possible: a node stands for all places in them
    where a text may be.
    """
    texts = [tuple(map(int, text)) for text in (*first, *others)]
    again = [(number, 0) for number in range(len(first), len(texts))]
    start = frozenset((number, 0) for number in range(len(first)))
    known: dict[frozenset, int] = {start: 0}
    children: list[dict[int, int]] = [{}]
    waiting, last = [start], None
    while waiting:
        places = waiting.pop()
        followed: dict[int, set] = {}
        for number, at in places:
            if at < len(texts[number]):
                followed.setdefault(texts[number][at], set()).add((number, at + 1))
            else:
                followed.setdefault(end, set())
        for token, reached in followed.items():
            if token == end and not reached:
                if last is None:
                    last = len(children)
                    children.append({})
                children[known[places]][token] = last
                continue
            whole = any(at == len(texts[number]) for number, at in reached)
            new = frozenset(reached | ({*again} if whole else set()))
            if new not in known:
                known[new] = len(children)
                children.append({})
                waiting.append(new)
            children[known[places]][token] = known[new]
    return _arrays(children)


def _arrays(children: Sequence[dict[int, int]]) -> Outputs:
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
