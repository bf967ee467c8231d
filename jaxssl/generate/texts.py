"""Texts out of a model and its tokenizer: from prompts in words to what is written, in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Params, Vocabulary
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.generate.decode import TOGETHER, Continuation, beam_search, generate
from jaxssl.generate.outputs import make_outputs
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.model import Model

INCOMPLETE = "\ufffd"
"""What a tokenizer gives for the first bytes of a character whose last are not there yet."""

OnPiece = Callable[[int, str], None]
"""Of a text's number and what was added to it."""


class LanguageModel(NamedTuple):
    """A model with its parameters, and the tokenizer that turns texts into its tokens."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    vocabulary: Vocabulary


@dataclass(frozen=True, kw_only=True)
class Text:
    """What was written.

    Attributes:
      text: without its prompt, cut before a stop string.
      log_probability: of its tokens, as the model has them; also of what was cut.
      num_tokens: that were written.
      ended_by: a token that ends texts, a stop string, or that there was no more room.
    """

    text: str
    log_probability: float
    num_tokens: int
    ended_by: Literal["end", "stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How texts are written, beside `Sampling`.

    Attributes:
      beams: the most likely texts are searched; None draws them.
      choices: the only texts that may be written.
      start: tokens that each prompt begins with.
      stop_ids: the tokens that end a text, where it is not the one that ends a document.
      trained_length: of rows in training, which bounds how many tokens are added by default.
    """

    beams: Beams | None = None
    choices: tuple[str, ...] = ()
    start: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    trained_length: int | None = None


WRITING = Writing()


def write_texts(
    language_model: LanguageModel,
    prompts: Sequence[str],
    sampling: Sampling,
    writing: Writing = WRITING,
    on_piece: OnPiece | None = None,
    first: int = 0,
    adapter: Sequence[int] | None = None,
) -> list[Text]:
    """What follows each prompt, `sampling.samples` texts of each; an empty prompt starts a
    document. An encoder-decoder reads the prompt and writes a text of its own.

    Args:
      on_piece: told what is added to each text, after every token.
      first: the number of the first text, where others came before: what is drawn goes by it.
      adapter: for each prompt, as in `decode.generate`.

    Raises:
      UserError: a stop string that cannot occur, choices that cannot be written, a text that is too
        long.
    """
    model, params, tokenizer, vocabulary = language_model
    ids = prompt_ids(language_model, prompts, writing.start)
    befores = [row for row in ids for _ in range(sampling.samples)]
    if model.config.encoder_decoder:
        befores = [np.zeros(0, np.int32)] * len(befores)
    ends = list(writing.stop_ids or [vocabulary.document_end])
    check_stops(tokenizer, sampling.stop)
    outputs = None
    if writing.choices:
        texts = [np.asarray(row) for row in tokenizer.encode_batch(list(writing.choices))]
        outputs = make_outputs(texts, ends[0])
    options: dict[str, Any] = dict(num_tokens=vocabulary.size, adapter=adapter)
    options["trained_length"] = writing.trained_length
    if writing.beams is not None:
        made = beam_search(
            model, params, ids, sampling, writing.beams, ends, outputs=outputs, **options
        )
    else:
        stream = Stream(tokenizer, befores, sampling.stop, on_piece)
        made = generate(
            model,
            params,
            ids,
            sampling,
            ends,
            outputs=outputs,
            watch=stream.watch if sampling.stop or on_piece else None,
            together=1 if on_piece else TOGETHER,
            first=first,
            **options,
        )
        stream.finish(made)
    return [_text(tokenizer, *both, sampling.stop) for both in zip(befores, made)]


def prompt_ids(
    language_model: LanguageModel, prompts: Sequence[str], start: Sequence[int]
) -> list[np.ndarray]:
    """The tokens of each prompt. Those for an encoder end as documents do; one that is empty starts
    a document."""
    model, _, tokenizer, vocabulary = language_model
    lead, end = np.array(start, np.int32), np.array([vocabulary.document_end], np.int32)
    rows = [np.concatenate([lead, row]) for row in tokenizer.encode_batch(list(prompts))]
    if model.config.encoder_decoder:
        return [row if row[-1:] == end else np.concatenate([row, end]) for row in rows]
    return [row if len(row) else end for row in rows]


def check_stops(tokenizer: Tokenizer, stops: Sequence[str]) -> None:
    """Refuses strings that no text of the tokenizer has.

    Raises:
      UserError: names the first.
    """
    for stop, ids in zip(stops, tokenizer.encode_batch(list(stops)) if stops else ()):
        again = tokenizer.decode(ids)
        if stop.strip() not in again:
            raise UserError(
                "a stop string cannot occur",
                where="stop",
                expected="a string that the tokenizer can write",
                got=f"{stop!r}, which it reads and writes as {again!r}",
            )


def _text(
    tokenizer: Tokenizer, before: np.ndarray, made: Continuation, stops: Sequence[str]
) -> Text:
    text = decoded(tokenizer, before, made.tokens)
    cut = _first(text, stops)
    by: Literal["end", "stop", "length"] = "end" if made.ended else "length"
    return Text(
        text=text if cut is None else text[:cut],
        log_probability=made.log_probability,
        num_tokens=len(made.tokens),
        ended_by=by if cut is None else "stop",
    )


def decoded(tokenizer: Tokenizer, before: np.ndarray, after: np.ndarray) -> str:
    """New tokens as text, read with their prompt, so that spaces come out as in the whole text."""
    whole, known = tokenizer.decode([*before, *after]), tokenizer.decode(before)
    return whole[len(known) :] if whole.startswith(known) else tokenizer.decode(after)


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the strings begins; None where none is there."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(found, default=None)


class Stream:
    """Texts on their way: tells what is added, and when a stop string is there."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        befores: Sequence[np.ndarray],
        stops: Sequence[str],
        on_piece: OnPiece | None,
    ):
        self._tokenizer, self._befores, self._stops = tokenizer, befores, stops
        self._on_piece, self._told = on_piece, [""] * len(befores)

    def watch(self, number: int, tokens: np.ndarray) -> bool:
        """Whether the text is to end here."""
        text = decoded(self._tokenizer, self._befores[number], tokens)
        cut = _first(text, self._stops)
        # What may be the beginning of a stop string, or of a character, is not told yet.
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        sure = text[: len(text) - held].rstrip(INCOMPLETE)
        self._tell(number, sure if cut is None else text[:cut])
        return cut is not None

    def finish(self, made: Sequence[Continuation]) -> None:
        """Tells what was held back."""
        for number, each in enumerate(made):
            self._tell(number, self.text(number, each.tokens))

    def text(self, number: int, tokens: np.ndarray) -> str:
        """The text of new tokens, cut before a stop string."""
        text = decoded(self._tokenizer, self._befores[number], tokens)
        cut = _first(text, self._stops)
        return text if cut is None else text[:cut]

    def _tell(self, number: int, text: str) -> None:
        told = self._told[number]
        if self._on_piece is not None and text.startswith(told) and len(text) > len(told):
            self._on_piece(number, text[len(told) :])
            self._told[number] = text


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text a stop string may begin with."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
