"""Sampling continuations from a causal model, with cached keys and values."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

MOST_BY_DEFAULT = 64


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int | None = None
    """Most tokens to add to a prompt; null is what is left of the length that the model was trained
    at, at most 64."""
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
        checks = (
            ("max_new_tokens", self.max_new_tokens, lambda x: x >= 1, "1 or more"),
            ("temperature", self.temperature, lambda x: 0 <= x < math.inf, "0 or more"),
            ("top_k", self.top_k, lambda x: x >= 1, "1 or more"),
            ("top_p", self.top_p, lambda x: 0 < x <= 1, "above 0, at most 1"),
        )
        for name, value, is_good, expected in checks:
            if value is not None and not is_good(value):
                what = "a sampling setting is out of range"
                raise UserError(what, where=name, expected=expected, got=value)

    def fitted(self, longest: int, max_positions: int, trained: int | None = None) -> "Sampling":
        """This with the number of new tokens settled, for prompts of at most `longest` tokens.

        Args:
          trained: the length of rows in training; what the model says behind it is noise, since its
            positions there never moved. None knows no such length.

        Raises:
          UserError: prompt and continuation exceed the model's positions.
        """
        room = max_positions - longest
        new = self.max_new_tokens
        if new is None:
            learnt = room if trained is None else max(1, trained - longest)
            new = min(MOST_BY_DEFAULT, room, learnt)
        if not 1 <= new <= room:
            fewer = f"ask for at most {room} new tokens (--tokens {room}), or " if room > 0 else ""
            raise UserError(
                "the prompt and its continuation are longer than the model's positions",
                where="max_new_tokens (--tokens)",
                expected=f"at most {max_positions} tokens in all",
                got=f"{longest} + {max(new, 1)}",
                fix=f"{fewer}shorten the prompt",
            )
        return dataclasses.replace(self, max_new_tokens=new)


class PaddedPrompts(NamedTuple):
    """Prompts of a batch, padded to the longest: their tokens [B, T] and lengths [B]."""

    tokens: np.ndarray
    lengths: np.ndarray


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    stop_ids: Sequence[int],
    num_tokens: int | None = None,
    trained_length: int | None = None,
) -> list[np.ndarray]:
    """The continuation of each prompt (ids), up to and without the first of `stop_ids`.

    Args:
      prompts: int arrays, each of at least one token.
      num_tokens: ids from this one on are never chosen: rows of the embedding that the tokenizer
        has no piece for.
      trained_length: of rows in training, which bounds how many tokens are added by default.

    Raises:
      UserError: an empty prompt, or prompt and continuation exceed the model's positions.
    """
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    if not len(lengths) or lengths.min() < 1:
        raise UserError("a prompt is empty", expected="at least one token", where="prompt")
    sampling = sampling.fitted(int(lengths.max()), model.config.max_positions, trained_length)
    tokens = np.zeros((len(prompts), int(lengths.max())), np.int32)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
    key = seed_key(sampling.seed)
    stop = np.array(stop_ids or [-1], np.int32)
    known = num_tokens or model.config.vocab_size
    padded = PaddedPrompts(tokens, lengths)
    out = np.asarray(_decode(model, sampling, known, params, padded, key, stop))
    ends = [np.flatnonzero(np.isin(row, stop)) for row in out]
    return [row[: end[0]] if len(end) else row for row, end in zip(out, ends)]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _decode(model, sampling, num_tokens, params, prompts, key, stop):
    """New tokens [B, max_new_tokens]; once one of `stop` [K] was drawn, its first is repeated."""
    tokens, lengths = prompts
    B, T = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
    cache = model.empty_cache(B, T + sampling.max_new_tokens)
    batch = {"tokens": tokens, "segment_ids": jnp.ones_like(tokens), "positions": positions}
    hidden, cache = model.decode(params, batch, cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]

    def choose(key, last):
        logits = model.head(params, model.head_for("continue"), last)
        return sample(
            key,
            logits[..., :num_tokens],
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
        )

    def body(carry, index):
        cache, last, done = carry
        token = jnp.where(done, stop[0], choose(jax.random.fold_in(key, index), last))
        done = done | jnp.isin(token, stop)
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
