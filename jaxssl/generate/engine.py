"""Writing tokens with cached keys and values: one program reads the prompts, another one adds n
tokens a call. What is written does not depend on n, nor on what else is in the batch.

Shapes: B rows, P tokens of the prompts, S slots of the cache, V ids.
"""

import functools
import operator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.layer_names import canonical, in_segment, is_stacked, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.generate.outputs import Outputs, allowed, followed
from jaxssl.generate.settings import Sampling
from jaxssl.models.layer_context import Memory
from jaxssl.models.model import Model
from jaxssl.ops import logits as change
from jaxssl.ops.attention.pattern import Pattern


def apart(model: Model, params: Params) -> tuple[Model, Params]:
    """The model with every layer by itself, no stack being scanned, and its parameters, of which
    those of layers are copied unless they are so already.

    For one token at a time a scan costs more than the layers do: it copies each layer's parameters
    out of the stack for every token, and writes the keys and values of all layers anew. (GPT-2
    small on 2 cores, one text: 14 tokens/s scanned, 25 apart.)
    """
    cut = {stack.name: (1,) * stack.depth for stack in model.stacks}
    if all(stack.sizes == cut[stack.name] for stack in model.stacks):
        return model, params
    return model.with_segments(cut), _apart(params)


@jax.jit
def _apart(params: Params) -> Params:
    made: dict[str, jax.Array] = {}
    for name, x in flatten(params).items():
        if not is_stacked(name) or x.shape[0] == 1:
            made[name] = x
            continue
        first = (layer_range(name) or (0, 0))[0]
        for i in range(x.shape[0]):
            # Of a parameter in codes, codes and scale.
            cut = jax.tree.map(operator.itemgetter(slice(i, i + 1)), x)
            made[in_segment(canonical(name), first + i, first + i + 1)] = cut
    return unflatten(made)


class Prompts(NamedTuple):
    """What rows begin with.

    Attributes:
      tokens: int32 [B, P], padded at the end; of an encoder-decoder those that its decoder reads.
      lengths: int32 [B], at least 1.
      source: int32 [B, T], what an encoder-decoder's encoder reads; None of other models.
      source_lengths: int32 [B].
      adapter: int32 [B], which set of an adapter's parameters each row uses; None where there is
        one.
    """

    tokens: jax.Array | np.ndarray
    lengths: jax.Array | np.ndarray
    source: jax.Array | np.ndarray | None = None
    source_lengths: jax.Array | np.ndarray | None = None
    adapter: jax.Array | np.ndarray | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Written:
    """Texts on their way.

    Attributes:
      cache: keys and values so far.
      segments: int32 [B, T] of what the encoder read; None without one.
      last: [B, H], the state that the next token is guessed from.
      tokens: int32 [B, S], prompts and what was added.
      starts, lengths: int32 [B], tokens of the prompt, and of all.
      scores: float32 [B], the sum of the log-probabilities of what was added, as the model has
        them, before anything is changed.
      done: bool [B], whether the text has ended.
      node: int32 [B], where in the list of outputs it is.
      adapter: as in `Prompts`.
    """

    cache: Any
    segments: jax.Array | None
    last: jax.Array
    tokens: jax.Array
    starts: jax.Array
    lengths: jax.Array
    scores: jax.Array
    done: jax.Array
    node: jax.Array
    adapter: jax.Array | None = None


@dataclass(frozen=True)
class Plan:
    """What the programs are compiled for. Hashable.

    Attributes:
      slots: of the cache.
      num_tokens: ids from this one on are never chosen.
      sampling: how the next one is chosen.
      prefix: prompts are seen whole by all their tokens, as in a prefix language model.
    """

    model: Model
    slots: int
    num_tokens: int
    sampling: Sampling
    prefix: bool = False


@functools.partial(jax.jit, static_argnums=0)
def begin(plan: Plan, params: Params, prompts: Prompts) -> Written:
    """Reads the prompts."""
    model, (tokens, lengths, source, source_lengths, adapter) = plan.model, prompts
    adapter = None if adapter is None else jnp.asarray(adapter, jnp.int32)
    B, P = tokens.shape
    memory, segments = None, None
    if source is not None:
        read = _choosing(row_batch(source, source_lengths), adapter)
        memory = model.memory(params, read)
        segments = memory.segment_ids
    width = None if source is None else source.shape[1]
    cache = model.fresh_cache(params, B, plan.slots, width, adapter)
    batch, pattern = _choosing(row_batch(tokens, None), adapter), None
    if plan.prefix:
        pattern = Pattern(causal=True, prefix=True)
        batch["prefix"] = row_batch(tokens, jnp.asarray(lengths))["segment_ids"]
    hidden, cache = model.decode(params, batch, cache, memory, pattern)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return Written(
        cache=cache,
        segments=segments,
        last=last,
        tokens=jnp.zeros((B, plan.slots), jnp.int32).at[:, :P].set(tokens),
        starts=jnp.asarray(lengths),
        lengths=jnp.asarray(lengths),
        scores=jnp.zeros(B, jnp.float32),
        done=jnp.zeros(B, bool),
        node=jnp.zeros(B, jnp.int32),
        adapter=adapter,
    )


def _choosing(batch: dict[str, jax.Array], adapter: jax.Array | None) -> dict[str, jax.Array]:
    return batch if adapter is None else {**batch, "adapter": adapter}


def added(written: Written, most: int) -> tuple[jax.Array, jax.Array]:
    """What was added to each prompt: int32 [B, most], and how many of them [B]."""
    at = written.starts[:, None] + jnp.arange(most)
    tokens = jnp.take_along_axis(written.tokens, at, axis=1, mode="clip")
    return tokens, written.lengths - written.starts


def without_end(tokens: jax.Array, lengths: jax.Array, end: jax.Array) -> jax.Array:
    """The lengths [B] of texts [B, U] less the token that ended them, where one did."""
    last = jnp.take_along_axis(tokens, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    return lengths - ((last == end) & (lengths > 0))


def row_batch(tokens: Any, lengths: Any) -> dict[str, jax.Array]:
    """A batch of one text a row; without lengths all is seen, which a causal stack's tokens before
    it do not."""
    tokens = jnp.asarray(tokens, jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    real = positions < lengths[:, None] if lengths is not None else jnp.ones(tokens.shape, bool)
    return {"tokens": tokens, "segment_ids": real.astype(jnp.int32), "positions": positions}


class Limits(NamedTuple):
    """Where texts end.

    Attributes:
      ends: int32 [K], the ids that end one; -1 is none.
      most: int32 [], new tokens.
      outputs: the only texts that may be written; None is any.
    """

    ends: Any
    most: Any
    outputs: Outputs | None = None


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def go_on(
    plan: Plan,
    params: Params,
    written: Written,
    keys: jax.Array,
    limits: Limits,
    count: jax.Array,
) -> Written:
    """At most `count` tokens more of each text; one that has ended stays as it is.

    Args:
      keys: typed keys [B], of the rows' random choices.
    """

    def goes_on(carry):
        number, written = carry
        return (number < count) & ~jnp.all(written.done)

    def step(carry):
        number, written = carry
        raw = logits_of(plan, params, written.last)
        changed = processed(plan.sampling, raw, written, limits)
        token = chosen(plan.sampling, changed, keys, written.lengths - written.starts)
        return number + 1, extended(plan, params, written, token, raw, limits)

    return jax.lax.while_loop(goes_on, step, (jnp.zeros([], jnp.int32), written))[1]


def logits_of(plan: Plan, params: Params, last: jax.Array) -> jax.Array:
    """Logits [B, V] of the next token, in float32 at least."""
    model = plan.model
    logits = model.head(params, model.head_for("continue"), last)[..., : plan.num_tokens]
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def processed(
    sampling: Sampling,
    logits: jax.Array,
    written: Written,
    limits: Limits,
) -> jax.Array:
    """The logits after all that does not depend on chance, in the order of `transformers`."""
    s, history = sampling, (written.tokens, written.lengths)
    if s.repetition_penalty != 1:
        logits = change.penalised(logits, *history, s.repetition_penalty)
    if s.no_repeat_ngram is not None:
        logits = change.without_repeats(logits, *history, s.no_repeat_ngram)
    if s.min_new_tokens:
        new = written.lengths - written.starts
        logits = change.no_end_before(logits, new, limits.ends, s.min_new_tokens)
    if limits.outputs is not None:
        may = allowed(limits.outputs, written.node, logits.shape[-1])
        logits = jnp.where(may, logits, -jnp.inf)
    return logits


def chosen(sampling: Sampling, logits: jax.Array, keys: jax.Array, number: jax.Array) -> jax.Array:
    """One id of each row [B]; `number` int32 [B] says which new token it is."""
    s = sampling
    if s.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / s.temperature
    if s.top_k is not None:
        logits = change.largest(logits, s.top_k)
    if s.top_p is not None:
        logits = change.nucleus(logits, s.top_p)
    if s.min_p is not None:
        logits = change.likely_enough(logits, s.min_p)
    keys = jax.vmap(jax.random.fold_in)(keys, number)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def extended(
    plan: Plan,
    params: Params,
    written: Written,
    token: jax.Array,
    raw: jax.Array,
    limits: Limits,
) -> Written:
    """The texts with one token [B] more, but for those that have ended."""
    w, rows = written, jnp.arange(token.shape[0])
    log_probability = raw[rows, token] - jax.nn.logsumexp(raw, axis=-1)
    slot = jnp.where(w.done, plan.slots, w.lengths)  # outside: nothing is written
    memory = None if w.segments is None else Memory(None, w.segments)
    one = {
        "tokens": token[:, None],
        "segment_ids": jnp.ones_like(token)[:, None],
        # A row that has ended writes to its last slot again, which nobody reads.
        "positions": jnp.minimum(w.lengths, plan.slots - 1)[:, None],
    }
    hidden, cache = plan.model.decode(params, _choosing(one, w.adapter), w.cache, memory)
    node = w.node if limits.outputs is None else followed(limits.outputs, w.node, token)
    is_last = w.lengths + 1 - w.starts >= limits.most
    return Written(
        cache=cache,
        segments=w.segments,
        last=hidden[:, 0],
        tokens=w.tokens.at[rows, slot].set(token, mode="drop"),
        starts=w.starts,
        lengths=w.lengths + ~w.done,
        scores=w.scores + jnp.where(w.done, 0, log_probability.astype(jnp.float32)),
        done=w.done | is_last | jnp.isin(token, limits.ends),
        node=jnp.where(w.done, w.node, node),
        adapter=w.adapter,
    )
