"""Texts that a model writes after prompts: what users and tasks call."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.keys import seed_key
from jaxssl.core.types import Params
from jaxssl.generate.beam import search
from jaxssl.generate.engine import Limits, Plan, Prompts, Written, apart, begin, go_on
from jaxssl.generate.outputs import Outputs
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.model import Model
from jaxssl.parallel.axes import constrain

TOGETHER = 32
"""Tokens that one call adds, where nobody asks for fewer; also what a cache's length is rounded up
to, so that there are few lengths to compile for."""
SHORTEST_BUCKET = 16
"""Prompts are filled up to this length, or to twice, four times it, and so on: a program is
compiled for each length."""

Watch = Callable[[int, np.ndarray], bool]
"""Of a text's number and its new tokens so far: whether it is to end here."""


@dataclass(frozen=True)
class Continuation:
    """A text that was written.

    Attributes:
      tokens: int32, without the token that ended it.
      log_probability: of the tokens, and of the end where there is one, as the model has them.
      ended: whether a token ended it; else there was no more room.
    """

    tokens: np.ndarray
    log_probability: float
    ended: bool


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    stop_ids: Sequence[int],
    num_tokens: int | None = None,
    trained_length: int | None = None,
    *,
    outputs: Outputs | None = None,
    watch: Watch | None = None,
    together: int = TOGETHER,
    first: int = 0,
    adapter: Sequence[int] | None = None,
) -> list[Continuation]:
    """What the model writes after each prompt, up to the first of `stop_ids`: `sampling.samples`
    texts of the first prompt, then of the second, and so on.

    Args:
      prompts: int arrays, each of at least one token; of an encoder-decoder what its encoder reads.
      num_tokens: ids from this one on are never chosen: rows of the embedding that the tokenizer
        has no piece for.
      trained_length: of rows in training, which bounds how many tokens are added by default.
      outputs: the only texts that may be written.
      watch: called for each text after every `together` tokens.
      together: tokens that are written at once; what comes out does not depend on it.
      first: the number of the first text, where others came before: its choices go by it.
      adapter: for each prompt, which set of an adapter's parameters is used, where there are
        several (`transfer.peft.side_by_side`).

    Raises:
      UserError: an empty prompt, or prompt and continuation exceed the model's positions.
    """
    model, params = apart(model, params)
    plan, begun, most = _planned(
        model, prompts, sampling, sampling.samples, num_tokens, trained_length, adapter
    )
    limits = _limits(most, stop_ids, outputs)
    keys = _row_keys(sampling.seed, first, len(begun.tokens))
    written = begin(plan, params, begun)
    while not _whole(written.done).all():
        written = go_on(plan, params, written, keys, limits, np.int32(together))
        if watch is not None:
            stopped = [watch(i, each.tokens) for i, each in enumerate(_made(written, limits))]
            written = dataclasses.replace(written, done=written.done | np.array(stopped))
    return _made(written, limits)


def beam_search(
    model: Model,
    params: Params,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    beams: Beams,
    stop_ids: Sequence[int],
    num_tokens: int | None = None,
    trained_length: int | None = None,
    *,
    outputs: Outputs | None = None,
    adapter: Sequence[int] | None = None,
) -> list[Continuation]:
    """The best `sampling.samples` texts of each prompt; else as `generate`. What of `sampling`
    draws (temperature, top_k, top_p, min_p, seed) is not used.

    Raises:
      UserError: also where more texts are asked for than there are beams.
    """
    if sampling.samples > beams.count:
        raise UserError(
            "there are fewer beams than texts that are asked for",
            where="samples, beams",
            expected=f"at most {beams.count} texts",
            got=sampling.samples,
        )
    model, params = apart(model, params)
    plan, begun, most = _planned(model, prompts, sampling, 1, num_tokens, trained_length, adapter)
    limits = _limits(most, stop_ids, outputs)
    ended = search(plan, beams, params, begin(plan, params, begun), limits)
    parts = (ended.tokens, ended.lengths, ended.sums)
    made = []
    for start, *texts in zip(begun.lengths, *_whole(parts)):
        for tokens, length, total in list(zip(*texts))[: sampling.samples]:
            added = tokens[start : start + length]
            has_end = bool(np.isin(added[-1:], limits.ends).any())
            made.append(Continuation(added[: len(added) - has_end], float(total), has_end))
    return made


def _planned(
    model: Model,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    samples: int,
    num_tokens: int | None,
    trained_length: int | None,
    adapter: Sequence[int] | None,
) -> tuple[Plan, Prompts, int]:
    """What is compiled, what rows begin with, and the most new tokens."""
    if not prompts or min(map(len, prompts)) < 1:
        raise UserError("a prompt is empty", expected="at least one token", where="prompt")
    begun, longest = _prompts(model, prompts, samples)
    if adapter is not None:
        begun = begun._replace(adapter=np.repeat(np.array(adapter, np.int32), samples))
    room = model.max_positions + (model.lead if model.config.encoder_decoder else 0)
    most = sampling.fitted(longest, room, trained_length).max_new_tokens
    assert most is not None
    slots = begun.tokens.shape[1] + -(-most // TOGETHER) * TOGETHER
    # The number itself is not compiled in: with every longest prompt it may be another.
    sampling = dataclasses.replace(sampling, max_new_tokens=None)
    return Plan(model, slots, num_tokens or model.config.vocab_size, sampling), begun, most


def _limits(most: int, stop_ids: Sequence[int], outputs: Outputs | None) -> Limits:
    return Limits(np.array(stop_ids or [-1], np.int32), np.int32(most), outputs)


def _prompts(model: Model, prompts: Sequence[np.ndarray], samples: int) -> tuple[Prompts, int]:
    """The prompts of all texts, and how many tokens of positions they take at most."""
    c = model.config
    rows = [row for row in prompts for _ in range(samples)]
    tokens, lengths = _padded(rows, model.max_positions)
    if not c.encoder_decoder:
        return Prompts(tokens, lengths), int(lengths.max())
    assert isinstance(c, EncoderDecoderConfig)
    longest = int(lengths.max())
    check_source(longest, model.max_positions)
    start = np.full((len(rows), 1), c.decoder_start_token_id, np.int32)
    return Prompts(start, np.ones(len(rows), np.int32), tokens, lengths), 1


def check_source(longest: int, max_positions: int) -> None:
    """Refuses a text that an encoder has too few positions for. Raises UserError."""
    if longest > max_positions:
        raise UserError(
            "a text is longer than the model's positions",
            where="prompt",
            expected=f"at most {max_positions} tokens",
            got=longest,
            fix="shorten it",
        )


def _padded(rows: Sequence[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [B, P] filled up to a bucket, and their lengths [B]."""
    lengths = np.array([len(row) for row in rows], np.int32)
    width = SHORTEST_BUCKET
    while width < lengths.max():
        width *= 2
    width = max(int(lengths.max()), min(width, most))
    tokens = np.zeros((len(rows), width), np.int32)
    for row, given in zip(tokens, rows):
        row[: len(given)] = given
    return tokens, lengths


def _row_keys(seed: int, first: int, count: int) -> jax.Array:
    """A key for each text, by its number: what it becomes does not depend on the others."""
    return jax.vmap(jax.random.fold_in, (None, 0))(seed_key(seed), first + jnp.arange(count))


def _whole(tree: Any) -> Any:
    """Arrays that every process reads, whole on each of them."""
    return jax.tree.map(np.asarray, _on_all_devices(tree))


@jax.jit
def _on_all_devices(tree: Any) -> Any:
    return jax.tree.map(lambda x: constrain(x, (None,) * x.ndim), tree)


def _made(written: Written, limits: Limits) -> list[Continuation]:
    """What was added to each text."""
    parts = (written.tokens, written.starts, written.lengths, written.scores)
    made = []
    for tokens, start, length, score in zip(*_whole(parts)):
        added = tokens[start:length]
        ended = len(added) > 0 and bool(np.isin(added[-1], limits.ends))
        made.append(Continuation(added[: len(added) - ended], float(score), ended))
    return made
