"""Losses over the vocabulary at a static number of places a row."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.core.types import Params
from jaxssl.models.model import Model
from jaxssl.ops.losses import chunked_sum, cross_entropy, filled_chunks
from jaxssl.parallel.axes import shards_of
from jaxssl.parallel.own_rows import spread


def gathered(hidden: jax.Array, places: jax.Array) -> jax.Array:
    """The hidden states [B, P, H] of [B, T, H] at `places` int [B, P]."""
    return jnp.take_along_axis(hidden, places[..., None], axis=1)


def slot_sums(
    model: Model,
    params: Params,
    head: str,
    inputs: Any,
    labels: jax.Array,
    weights: jax.Array,
    chunk: int,
    constants: Any = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross entropy of a head's logits, whose [B, P, V] never exist, and sums of it.

    Args:
      inputs: what the head is given, a hidden state [B, P, H], or a dictionary of them.
      labels: int [B, P].
      weights: float [B, P]; 0 of slots that are empty.
      chunk: slots whose logits are held at once.
      constants: further entries [B, P, ...] of a dictionary, without a gradient.

    Returns:
      The summed loss, and the sums {"nll", "correct"}.
    """

    def chunks(tree):
        return jax.tree.map(lambda x: filled_chunks(x, chunk, shards_of("sequence")), tree)

    def one(params, inputs, constants):
        labels, weights, more = constants
        given = inputs if more is None else {**inputs, **more}
        return cross_entropy(model.head(params, head, given), labels, weights)

    return chunked_sum(
        one,
        model.head_params(params, head),
        chunks(inputs),
        chunks((labels, weights, constants)),
        spread(model.head_axes(params, head)),
    )


def shown(name: str, sums: dict[str, jax.Array], weight: jax.Array) -> dict[str, Any]:
    """A language model loss's metrics: nats and accuracy for each place that counts."""
    return {f"nll/{name}": (sums["nll"], weight), f"accuracy/{name}": (sums["correct"], weight)}
