"""Beam search: of each prompt the most likely partial texts are kept, and of those that ended the
best.

As `transformers` does it (generation/utils.py, `_beam_search`), token for token: of all beams'
continuations the (1 + ends) x K most likely are looked at, those among the first K that end are
compared with what ended before, by log-probability over a length penalty, and the K best of the
others go on.

Shapes: B prompts, K beams of each, S slots of the cache, V ids.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxssl.core.types import Params
from jaxssl.generate.engine import (
    Limits,
    Plan,
    Written,
    extended,
    logits_of,
    processed,
)
from jaxssl.generate.settings import Beams

NEVER = -1e9
"""The log-probability of what cannot be."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ended:
    """The best texts that have ended, best first.

    Attributes:
      tokens: int32 [B, K, S], with their prompts.
      lengths: int32 [B, K], of what was added.
      scores: float32 [B, K], log-probability over the length penalty.
      sums: float32 [B, K], the log-probability.
      there: bool [B, K], whether there is one.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array
    sums: jax.Array
    there: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def search(plan: Plan, beams: Beams, params: Params, begun: Written, limits: Limits) -> Ended:
    """The best `beams.count` texts of each prompt; of a row whose length is used up the ones that
    are on their way.

    Args:
      begun: the prompts, read: one row each.
    """
    K, B = beams.count, begun.done.shape[0]
    written = taken(begun, jnp.repeat(jnp.arange(B), K))
    running = jnp.full((B, K), NEVER, jnp.float32).at[:, 0].set(0.0)
    ended = Ended(
        tokens=jnp.zeros((B, K, plan.slots), jnp.int32),
        lengths=jnp.zeros((B, K), jnp.int32),
        scores=jnp.full((B, K), NEVER, jnp.float32),
        sums=jnp.full((B, K), NEVER, jnp.float32),
        there=jnp.zeros((B, K), bool),
    )
    may_improve = jnp.ones(B, bool)

    def goes_on(carry):
        number, _, _, ended, may_improve = carry
        is_open = ~jnp.all(ended.there) if beams.early_stopping == "first" else True
        return (number < limits.most) & jnp.any(may_improve) & is_open

    def step(carry):
        return _step(plan, beams, params, limits, *carry)

    carry = (jnp.zeros([], jnp.int32), written, running, ended, may_improve)
    return jax.lax.while_loop(goes_on, step, carry)[3]


def _step(plan, beams, params, limits, number, written, running, ended, may_improve):
    """One token more of every partial text."""
    (B, K), V = running.shape, plan.num_tokens
    raw = logits_of(plan, params, written.last)
    log_p = processed(plan.sampling, jax.nn.log_softmax(raw, axis=-1), written, limits)
    totals = running[:, :, None] + log_p.reshape(B, K, V).astype(jnp.float32)
    looked_at = min(max(2, 1 + limits.ends.shape[0]) * K, K * V)
    totals, place = jax.lax.top_k(totals.reshape(B, K * V), looked_at)
    of, token = place // V, (place % V).astype(jnp.int32)
    ends = jnp.isin(token, limits.ends) | (number + 1 >= limits.most)

    rows = jnp.arange(B)[:, None]
    added = written.tokens.reshape(B, K, -1)[rows, of]
    slot = written.lengths.reshape(B, K)[rows, of]
    added = added.at[rows, jnp.arange(looked_at)[None], slot].set(token)
    # Those that end now beside those that ended before.
    counts = ends & (jnp.arange(looked_at) < K)
    scores = totals / penalty(beams, number + 1)
    is_full = jnp.all(ended.there, axis=1) & (beams.early_stopping == "first")
    counts &= (~is_full & may_improve)[:, None]
    new = Ended(
        tokens=added,
        lengths=jnp.full_like(of, number + 1),
        scores=jnp.where(counts, scores, 2 * NEVER),
        sums=totals,
        there=counts,
    )
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), ended, new)
    best = jax.lax.top_k(both.scores, K)[1]
    ended = jax.tree.map(lambda x: x[rows, best], both)

    # The best of the others go on.
    running, best = jax.lax.top_k(jnp.where(ends, totals + NEVER, totals), K)
    index = (jnp.arange(B)[:, None] * K + of[rows, best]).reshape(-1)
    token = token[rows, best].reshape(-1)
    moved = taken(written, index)
    written = extended(plan, params, moved, token, raw[index], limits)
    number = number + 1
    length = limits.most if beams.early_stopping == "never" else number
    reachable = running[:, :1] / penalty(beams, length)
    worst = jnp.where(ended.there, ended.scores.min(axis=1, keepdims=True), NEVER)
    may_improve &= jnp.any(reachable > worst, axis=1)
    return number, written, running, ended, may_improve


def penalty(beams: Beams, length: jax.Array | int) -> jax.Array:
    """What the log-probability of a text of so many tokens is divided by."""
    length = jnp.asarray(length, jnp.float32)
    if beams.length_penalty == "gnmt":
        return ((5 + length) / 6) ** beams.alpha
    power = {"mean": 1.0, "none": 0.0}.get(beams.length_penalty, beams.alpha)
    return length**power


def taken(written: Written, index: jax.Array) -> Written:
    """The rows of an index, in its order. Keys and values have layers before rows."""
    cache = jax.tree.map(lambda x: jnp.take(x, index, axis=1), written.cache)
    others = {name: getattr(written, name) for name in Written.__dataclass_fields__}
    others = jax.tree.map(lambda x: jnp.take(x, index, axis=0), {**others, "cache": None})
    return Written(**{**others, "cache": cache})
