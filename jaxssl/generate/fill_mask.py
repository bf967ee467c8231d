"""What a masked model would put at each mask."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Params
from jaxssl.models.model import Model
from jaxssl.parallel.axes import constrain


def fill_mask(
    model: Model,
    params: Params,
    rows: Sequence[np.ndarray],
    mask_id: int,
    top: int = 5,
    num_tokens: int | None = None,
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """For each row of ids, for each mask in it: the `top` ids and their probabilities, likely
    first.

    Args:
      num_tokens: ids from this one on are left out: rows of the embedding that the tokenizer has
        no piece for.

    Raises:
      UserError: a row is longer than the model's positions, or `top` is out of range.
    """
    length, c = max(len(row) for row in rows), model.config
    if length > model.max_positions:
        raise UserError(
            "a text is longer than the model's positions",
            where="texts",
            expected=f"at most {model.max_positions} tokens, special tokens included",
            got=length,
            fix="shorten the text",
        )
    known = num_tokens or c.vocab_size
    if not 1 <= top <= known:
        raise UserError(
            "so many candidates cannot be shown",
            where="top (--top)",
            expected=f"1 to {known}, the size of the vocabulary",
            got=top,
        )
    tokens = np.zeros((len(rows), length), np.int32)
    segments = np.zeros_like(tokens)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        segments[i, : len(row)] = 1
    masks = [np.flatnonzero(row == mask_id) for row in rows]
    where = [(i, position) for i, found in enumerate(masks) for position in found]
    at = np.array(where, np.int32).reshape(-1, 2)
    ids, probabilities = jax.device_get(_top(model, top, known, params, tokens, segments, at))
    results: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in rows]
    for (i, _), row_ids, row_probabilities in zip(where, ids, probabilities):
        results[i].append((row_ids, row_probabilities))
    return results


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _top(model, top, known, params, tokens, segments, at):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    batch = {"tokens": tokens, "segment_ids": segments, "positions": positions}
    hidden = model.encode(params, batch)[at[:, 0], at[:, 1]]
    logits = model.head(params, model.head_for("fill"), hidden)[:, :known].astype(jnp.float32)
    values, ids = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), top)
    # Whole on every device: every process reads them.
    return constrain(ids, (None, None)), constrain(values, (None, None))
