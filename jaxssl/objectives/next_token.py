"""The loss of tokens that a causal stack guesses, in chunks of the sequence."""

import jax
import jax.numpy as jnp

from jaxssl.core.types import Batch, Params
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model
from jaxssl.objectives.base import Sums
from jaxssl.ops.losses import chunked_sum, cross_entropy, filled_chunks
from jaxssl.parallel.axes import shards_of
from jaxssl.parallel.own_rows import spread


def following(x: jax.Array) -> jax.Array:
    """What is at the next place of each row of x [B, T]; 0 at its end."""
    return jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], axis=1)


def next_tokens(batch: Batch) -> dict[str, jax.Array]:
    """`next_tokens` int32 [B, T], and `next_weights` float32 [B, T], 1 where the next token is of
    the same document."""
    segments = batch["segment_ids"]
    same = (segments > 0) & (following(segments) == segments)
    return {
        "next_tokens": following(batch["tokens"]),
        "next_weights": same.astype(jnp.float32),
    }


def next_token_sums(
    model: Model,
    params: Params,
    hidden: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    *,
    name: str,
    chunk: int,
    z_loss: float = 0.0,
    smoothing: float = 0.0,
) -> Sums:
    """Cross entropy of the causal head at every place; [B, T, V] logits never exist.

    Args:
      hidden: [B, T, H].
      targets: int32 [B, T], the token that is guessed at each place.
      weights: float32 [B, T]; 0 leaves a place out.
      name: of the loss.
      z_loss, smoothing: see `cross_entropy`.
      chunk: places of each row whose logits are held at once; the last ones are filled up.
    """

    def one(params, hidden, constants):
        targets, weights = constants
        logits = model.head(params, CAUSAL_LM.name, hidden)
        return cross_entropy(logits, targets, weights, z_loss, smoothing)

    def chunks(tree):
        return jax.tree.map(lambda x: filled_chunks(x, chunk, shards_of("sequence")), tree)

    head = model.head_params(params, CAUSAL_LM.name)
    names = model.head_axes(params, CAUSAL_LM.name)
    constants = chunks((targets, weights))
    loss, sums = chunked_sum(one, head, chunks(hidden), constants, spread(names))
    weight = weights.sum()
    metrics = {
        f"nll/{name}": (sums["nll"], weight),
        f"accuracy/{name}": (sums["correct"], weight),
    }
    return Sums({name: loss}, metrics)
