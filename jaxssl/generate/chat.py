"""A conversation with a model: what is said stays in the cache, and only what is new is read.

Shapes: one row, P tokens of what is new, S slots of the cache.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.keys import seed_key
from jaxssl.core.types import Params
from jaxssl.data.chat.conversations import in_turns
from jaxssl.data.chat.rows import prompt_of
from jaxssl.data.tokenizer.chat_template import ChatTemplate
from jaxssl.generate.decode import SHORTEST_BUCKET, Continuation
from jaxssl.generate.engine import Limits, Plan, Written, apart, go_on
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import LanguageModel, Stream, check_stops

MOST_BY_DEFAULT = 256
"""New tokens of an answer, where nobody says how many; at most half of the window."""

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What was answered.

    Attributes:
      text: without what ends it.
      ended: whether the model ended it; else there was no more room.
      forgotten: how many of the oldest turns are left out from now on.
      read: how many tokens were read for it; those before were still in the cache.
    """

    text: str
    ended: bool
    forgotten: int
    read: int


class Conversation:
    """Turns with a model, and the keys and values of what was said.

    Args:
      sampling: how answers are drawn; `samples` is of no meaning.
      window: most tokens of all that is said.
      stop_ids: that end an answer, besides the template's own.
      system: what stands before everything.

    Attributes:
      window: the same.
      messages: what was said.

    Raises:
      UserError: no template; a window without room; stop strings that cannot occur.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        sampling: Sampling,
        window: int,
        stop_ids: Sequence[int] = (),
        system: str | None = None,
    ):
        model, params, tokenizer, vocabulary = language_model
        model, self._params = apart(model, params)
        self._template = ChatTemplate(tokenizer)
        check_stops(tokenizer, sampling.stop)
        most = sampling.max_new_tokens or min(MOST_BY_DEFAULT, max(1, window // 2))
        if window - 1 - most < 1:
            raise UserError(
                "an answer leaves no room for a question",
                where="max_new_tokens (--tokens)",
                expected=f"less than the {window - 1} tokens that the model reads",
                got=most,
            )
        self._sampling = dataclasses.replace(sampling, max_new_tokens=most)
        self._plan = Plan(model, window, vocabulary.size, self._sampling)
        ends = dict.fromkeys([self._template.end, *stop_ids])
        self._limits = Limits(np.array([*ends], np.int32), np.int32(most))
        self.window = window
        self._room = window - 1 - most  # the last slot is a waste bin, see `read_on`
        self.messages: list[Mapping[str, str]] = []
        if system is not None:
            self.messages.append({"role": "system", "content": system})
        self._state = nothing_read(self._plan, self._params)
        self._kept = np.zeros(0, np.int32)
        self._number = 0

    def ask(self, text: str, on_text: OnText | None = None) -> Answer:
        """The answer to what the user says next.

        Args:
          on_text: told of the answer's text, token by token.

        Raises:
          UserError: the question alone is too long. The conversation is as it was before.
        """
        turns = in_turns([*self.messages, {"role": "user", "content": text}])
        count, prompt = prompt_of(self._template, turns, self._room, "the conversation")
        if prompt is None:
            raise UserError(
                "this question alone is too long",
                where="the conversation",
                expected=f"at most {self._room} tokens with what the template adds",
                got=len(self._template.prompt(turns.last(1), "the conversation")),
                fix="say it in fewer words, or leave less room for answers (--tokens)",
            )
        forgotten = len(turns.turns) - count
        read = self._read(prompt)
        made = self._write(prompt, on_text)
        self.messages = turns.last(count)
        self.messages.append({"role": "assistant", "content": made.text})
        return dataclasses.replace(made, forgotten=forgotten, read=read)

    def _read(self, prompt: np.ndarray) -> int:
        """Reads what of the prompt is not in the cache; how many tokens these are."""
        size = min(len(self._kept), len(prompt) - 1)
        differ = np.flatnonzero(self._kept[:size] != prompt[:size])
        start = int(differ[0]) if len(differ) else size
        new = prompt[start:]
        width = SHORTEST_BUCKET
        while width < len(new):
            width *= 2
        tokens = np.zeros((1, min(width, self._plan.slots)), np.int32)
        tokens[0, : len(new)] = new
        place, length = np.int32(start), np.int32(len(new))
        self._state = read_on(self._plan, self._params, self._state, tokens, place, length)
        return len(new)

    def _write(self, prompt: np.ndarray, on_text: OnText | None) -> Answer:
        tokenizer, stops = self._template.tokenizer, self._sampling.stop
        piece = None if on_text is None else lambda number, text: on_text(text)
        stream = Stream(tokenizer, [prompt], stops, piece)
        key = jax.random.fold_in(seed_key(self._sampling.seed), self._number)[None]
        self._number += 1
        is_done, stopped = False, False
        while not is_done:
            together = np.int32(1 if on_text is not None or stops else self._limits.most)
            self._state = go_on(self._plan, self._params, self._state, key, self._limits, together)
            is_done = bool(self._state.done[0])
            made = self._continuation(len(prompt))
            if not made.ended and stream.watch(0, made.tokens):
                is_done = stopped = True
        made = self._continuation(len(prompt))
        stream.finish([made])
        # What was written last has keys and values too; what follows an end differs from it.
        self._kept = np.asarray(self._state.tokens[0, : int(self._state.lengths[0])])
        text = stream.text(0, made.tokens).strip()
        return Answer(text=text, ended=made.ended or stopped, forgotten=0, read=0)

    def _continuation(self, start: int) -> Continuation:
        added = np.asarray(self._state.tokens[0, start : int(self._state.lengths[0])])
        ended = len(added) > 0 and bool(np.isin(added[-1], self._limits.ends))
        score = float(self._state.scores[0])
        return Continuation(added[: len(added) - ended], score, ended)


@functools.partial(jax.jit, static_argnums=0)
def nothing_read(plan: Plan, params: Params) -> Written:
    """One text of no tokens."""
    return Written(
        cache=plan.model.fresh_cache(params, 1, plan.slots),
        segments=None,
        last=jnp.zeros((1, plan.model.config.hidden_size)),
        tokens=jnp.zeros((1, plan.slots), jnp.int32),
        starts=jnp.zeros(1, jnp.int32),
        lengths=jnp.zeros(1, jnp.int32),
        scores=jnp.zeros(1),
        done=jnp.zeros(1, bool),
        node=jnp.zeros(1, jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def read_on(
    plan: Plan,
    params: Params,
    written: Written,
    tokens: jax.Array,
    start: jax.Array,
    length: jax.Array,
) -> Written:
    """The text with other tokens from a place on. Keys and values before it stay; those behind are
    written over before a token sees them.

    Args:
      tokens: int32 [1, P], padded at the end; the padding goes to the last slot, which no text
        reaches.
      start: int32 [], the place of the first.
      length: int32 [], how many there are.
    """
    at = jnp.arange(tokens.shape[1])
    positions = jnp.where(at < length, start + at, plan.slots - 1)[None]
    batch = {
        "tokens": tokens,
        "segment_ids": jnp.ones_like(tokens),
        "positions": positions.astype(jnp.int32),
    }
    hidden, cache = plan.model.decode(params, batch, written.cache)
    last = jax.lax.dynamic_index_in_dim(hidden, length - 1, axis=1, keepdims=False)
    end = (start + length)[None]
    return Written(
        cache=cache,
        segments=None,
        last=last,
        tokens=written.tokens.at[0, positions[0]].set(tokens[0]),
        starts=end,
        lengths=end,
        scores=jnp.zeros(1),
        done=jnp.zeros(1, bool),
        node=jnp.zeros(1, jnp.int32),
    )
