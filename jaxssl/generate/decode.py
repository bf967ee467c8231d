"""Sampling continuations from a causal model, with cached keys and values."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_seed
from jaxssl.core.errors import UserError
from jaxssl.core.keys import seed_key
from jaxssl.core.types import Params
from jaxssl.models.model import Model
from jaxssl.ops.sampling import sample
from jaxssl.parallel.axes import constrain


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 64
    """Most tokens to add to a prompt."""
    temperature: float = 0.8
    """0 always takes the most likely token."""
    top_k: int | None = 50
    """Choose among the k most likely; null among all."""
    top_p: float | None = None
    """Choose among the fewest tokens that reach this probability; null among all."""
    seed: int = 0
    """Of the random choices; 0 to 2**32 - 1."""

    def __post_init__(self):
        check_seed(self)
        top_k = 1 if self.top_k is None else self.top_k
        top_p = 1.0 if self.top_p is None else self.top_p
        if min(self.max_new_tokens, top_k) < 1 or self.temperature < 0 or not 0 < top_p <= 1:
            raise UserError(
                "a sampling setting is out of range",
                where="max_new_tokens, temperature, top_k, top_p",
                expected="max_new_tokens >= 1, temperature >= 0, top_k >= 1, 0 < top_p <= 1",
                got=(self.max_new_tokens, self.temperature, self.top_k, self.top_p),
            )


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    stop_id: int | None,
    num_tokens: int | None = None,
) -> list[np.ndarray]:
    """The continuation of each prompt (ids), up to and without `stop_id`.

    Args:
      prompts: int arrays, each of at least one token.
      num_tokens: ids from this one on are never chosen: rows of the embedding that the tokenizer
        has no piece for.

    Raises:
      UserError: an empty prompt, or prompt and continuation exceed the model's positions.
    """
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    if not len(lengths) or lengths.min() < 1:
        raise UserError("a prompt is empty", expected="at least one token", where="prompt")
    total = int(lengths.max()) + sampling.max_new_tokens
    if total > model.config.max_positions:
        raise UserError(
            "the prompt and its continuation are longer than the model's positions",
            where="max_new_tokens",
            expected=f"at most {model.config.max_positions} tokens in all",
            got=f"{lengths.max()} + {sampling.max_new_tokens}",
            fix="shorten the prompt or ask for fewer tokens",
        )
    tokens = np.zeros((len(prompts), int(lengths.max())), np.int32)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
    key = seed_key(sampling.seed)
    stop = -1 if stop_id is None else stop_id
    known = num_tokens or model.config.vocab_size
    out = np.asarray(_decode(model, sampling, known, params, tokens, lengths, key, stop))
    ends = [np.flatnonzero(row == stop) for row in out]
    return [row[: end[0]] if len(end) else row for row, end in zip(out, ends)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _decode(model, sampling, num_tokens, params, tokens, lengths, key, stop):
    """New tokens [B, max_new_tokens], `stop` repeated once it was drawn."""
    B, T = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    cache = model.empty_cache(B, T + sampling.max_new_tokens)
    batch = {"tokens": tokens, "segment_ids": jnp.ones_like(tokens), "positions": positions}
    hidden, cache = model.decode(params, batch, cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]

    def choose(key, last):
        logits = model.head(params, "causal_lm", last)
        return sample(
            key,
            logits[..., :num_tokens],
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )

    def body(carry, index):
        cache, last, done = carry
        token = jnp.where(done, stop, choose(jax.random.fold_in(key, index), last))
        done = done | (token == stop)
        one = jnp.maximum(token, 0)[:, None]
        batch = {
            "tokens": one,
            "segment_ids": jnp.ones_like(one),
            "positions": (lengths + index)[:, None],
        }
        hidden, cache = model.decode(params, batch, cache)
        return (cache, hidden[:, 0], done), token

    start = (cache, last, jnp.zeros(B, bool))
    _, out = jax.lax.scan(body, start, jnp.arange(sampling.max_new_tokens))
    return constrain(out.T, (None, None))  # whole everywhere: every process reads it
