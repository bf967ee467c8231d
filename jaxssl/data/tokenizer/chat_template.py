"""How a chat template writes a conversation: the text, its tokens, and which of them are
the assistant's.

A template is code that comes with a model. It runs in the sandbox of `transformers`. What a message
says is data: a special token's string in it is read as these characters.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.tokenizer import CONFIG_FILE, Tokenizer
from jaxssl.data.tokenizer.with_transformers import library

Message = Mapping[str, str]
"""`role` (system, user or assistant) and `content`."""
Spans = list[tuple[int, int]]
"""Characters of a text, from and to."""

CHATML = "chatml"
"""The template that comes with the package."""
NAMED = "task.template, or --template of `jaxssl chat`"
"""Where a user names a template."""
TURN_TOKENS = ("<|im_start|>", "<|im_end|>")
"""The special tokens that it writes."""
CUT = "\ufdd0"
"""Stands within special tokens' strings in messages while they are rendered; it is no character."""
FIXED_DAY = "{% macro strftime_now(format) %}01 January 2025{% endmacro %}"
"""Put before a template that writes today's date: a run would have other data tomorrow."""
PROBE = (
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
)


class Written(NamedTuple):
    """A conversation as tokens.

    Attributes:
      ids: int32 [T].
      learnt: bool [T], the assistant's, with what ends each of its turns.
    """

    ids: np.ndarray
    learnt: np.ndarray


def own_template(tokenizer: Tokenizer) -> str | None:
    """The template in a tokenizer's files; of several the one called "default".

    Raises:
      UserError: what stands there is none.
    """
    given = json.loads(tokenizer.files[CONFIG_FILE]).get("chat_template")
    if isinstance(given, list) and all(isinstance(each, dict) for each in given):
        given = {str(each.get("name")): each.get("template") for each in given}
    found = given.get("default") if isinstance(given, dict) else given
    if not isinstance(found, str | None):
        raise UserError(
            "a tokenizer's chat template is no text",
            where=f"{tokenizer.name}, chat_template in {CONFIG_FILE}",
            expected="a template, or a list of {name, template}",
            got=repr(found)[:80],
            fix=f"correct it, or name another template: {NAMED}",
        )
    return found


def with_template(tokenizer: Tokenizer, name: str | None) -> Tokenizer:
    """The tokenizer with a template.

    Args:
      name: "chatml", or a file with a template; None keeps its own.

    Raises:
      UserError: there is no such file; the tokenizer has no template, or lacks its tokens.
    """
    if name is not None:
        tokenizer = tokenizer.with_chat_template(_read(name))
    if name == CHATML:
        check_turn_tokens(tokenizer)
    ChatTemplate(tokenizer)
    return tokenizer


def _read(name: str) -> str:
    if name == CHATML:
        return files("jaxssl.data.tokenizer").joinpath("chatml.jinja").read_text("utf-8")
    path = Path(name)
    if not path.is_file():
        raise UserError(
            "there is no such chat template",
            where=NAMED,
            expected=f"{CHATML}, a file, or null for the tokenizer's own",
            got=name,
        )
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            "a chat template's file is no text", where=name, expected="UTF-8", got=str(error)
        ) from error


def check_turn_tokens(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that would write the turns' marks in pieces.

    Raises:
      UserError: says how to add them.
    """
    missing = [token for token in TURN_TOKENS if token not in tokenizer.special_tokens]
    if missing:
        raise UserError(
            f"the tokenizer lacks the tokens of the template {CHATML}",
            where=tokenizer.name,
            expected=" and ".join(TURN_TOKENS) + " as special tokens",
            got="no " + ", no ".join(missing),
            fix="add them: jaxssl tokenizer extends=TOKENIZER out=NEW "
            f"'special_tokens=[{','.join(TURN_TOKENS)}]', then train with tokenizer=NEW and a "
            "model.vocab_size that holds them",
        )


class ChatTemplate:
    """A tokenizer's template.

    Attributes:
      tokenizer: that has it.
      end: the special token that ends the assistant's turns.

    Raises:
      UserError: there is none; it fails; or what ends a turn is no special token.
    """

    def __init__(self, tokenizer: Tokenizer):
        text = own_template(tokenizer)
        if text is None:
            raise UserError(
                "the tokenizer has no chat template",
                where=tokenizer.name,
                expected="chat_template in tokenizer_config.json, or chat_template.jinja",
                got="neither",
                fix=f"name one, {CHATML} or a file: {NAMED}",
            )
        self.tokenizer = tokenizer
        self._marks_answers = re.search(r"\{%-?\+?\s*generation\s*[-+]?%\}", text) is not None
        self._text = FIXED_DAY + text if "strftime_now" in text else text
        roles = tokenizer.special_ids.items()
        self._names = {f"{role}_token": tokenizer.token(i) for role, i in roles if i is not None}
        self.end = self._found_end()

    def written(self, messages: Sequence[Message], where: str) -> Written:
        """A whole conversation.

        Raises:
          UserError: the template fails on it, or does not tell where the answers are.
        """
        messages = self._as_data(messages)
        text, spans = self._render(messages, where)
        if not self._marks_answers:
            spans = self._answers(messages, text, where)
        return self._encoded(text, spans)

    def prompt(self, messages: Sequence[Message], where: str) -> np.ndarray:
        """The ids that the assistant's next answer follows, int32 [T]. Raises UserError."""
        text, _ = self._render(self._as_data(messages), where, asks=True)
        return self._encoded(text, []).ids

    def _as_data(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with special tokens' strings cut, so that they are not found again."""
        cut = self.tokenizer.cut_around_special
        return [{**each, "content": CUT.join(cut(each["content"]))} for each in messages]

    def _render(
        self, messages: Sequence[Message], where: str, *, asks: bool = False
    ) -> tuple[str, Spans]:
        """The text, and the characters that the template itself marks as the assistant's."""
        try:
            texts, spans = _library_render()(
                [list(messages)],
                chat_template=self._text,
                return_assistant_tokens_mask=self._marks_answers,
                add_generation_prompt=asks,
                **self._names,
            )
        except Exception as error:  # jinja2's own, and whatever the template's code raises
            raise UserError(
                "the chat template fails",
                where=where,
                expected="a template that writes this conversation",
                got=f"{type(error).__name__}: {error}",
                fix=f"correct the conversation, or name another template: {NAMED}",
            ) from error
        return texts[0], spans[0] if spans else []

    def _answers(self, messages: Sequence[Message], whole: str, where: str) -> Spans:
        """The characters of the answers, for a template that does not mark them: what a text has
        more than the prompt before it."""
        found = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, _ = self._render(messages[:number], where, asks=True)
            after, _ = self._render(messages[: number + 1], where)
            after = self._without_space(after)
            if not (whole.startswith(after) and after.startswith(before)):
                raise UserError(
                    "the chat template does not tell where an answer is",
                    where=f"{where}, messages[{number}]",
                    expected="that the prompt for an answer begins the text with it, and this the "
                    "whole conversation",
                    got=f"{before[-40:]!r}, {after[-40:]!r}",
                    fix="put {% generation %} ... {% endgeneration %} around what the assistant "
                    "says in a copy of the template, and name that file: task.template",
                )
            found.append((len(before), len(after)))
        return found

    def _without_space(self, text: str) -> str:
        """A text that ends with a special token, without the whitespace behind it: nobody needs to
        learn that."""
        shorter = text.rstrip()
        return shorter if shorter.endswith(tuple(self.tokenizer.special_tokens)) else text

    def _encoded(self, text: str, spans: Spans) -> Written:
        """Tokens of the whole text; one that shares a character with an answer is learnt."""
        parts = text.split(CUT)
        starts = np.cumsum([0, *(len(part) + len(CUT) for part in parts)])
        rows = self.tokenizer.encode_with_special(parts)
        ids = np.concatenate([row for row, _ in rows]).astype(np.int32)
        at = np.concatenate([each + start for (_, each), start in zip(rows, starts)])
        inside = np.zeros(len(text) + 1, np.int64)
        for start, end in spans:
            inside[start:end] = 1
        before = np.concatenate([[0], np.cumsum(inside)])
        at = at.astype(np.int64).reshape(-1, 2)
        return Written(ids, before[at[:, 1]] > before[at[:, 0]])

    def _found_end(self) -> int:
        """What ends the answer of a short conversation."""
        where = f"the chat template of {self.tokenizer.name}"
        ids, learnt = self.written(PROBE, where)
        answer = ids[learnt]
        is_special = np.isin(answer, list(self.tokenizer.special_tokens.values()))
        last = int(np.flatnonzero(is_special)[-1]) if is_special.any() else -1
        if last < 0 or self.tokenizer.decode(answer[last + 1 :]).strip():
            raise UserError(
                "the assistant's turns do not end with a special token",
                where=where,
                expected="one behind each answer, within {% generation %} if the template has that",
                got=repr(self.tokenizer.decode(answer)),
                fix="correct a copy of the template and name it, or use the one that is here: "
                f"task.template={CHATML}",
            )
        return int(answer[last])


@functools.cache
def _library_render() -> Any:
    library()
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template
