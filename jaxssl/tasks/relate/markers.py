"""Entity markers as plain text, put in before tokenising, so that no vocabulary is resized.

`@ Bill @ founded # Microsoft # in 1975.`, or with types (Zhou and Chen, 2021)
`@ * person * Bill @ founded # ^ organization ^ Microsoft # in 1975.` A text may hold these symbols
itself: which of them are markers is known from where the text was cut, not from their looks.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.tasks.relate.entities import Pair

SYMBOLS = ("@", "#")
"""Around the first entity, the subject, and around the second, the object."""
TYPE_SYMBOLS = ("*", "^")
"""Around their types."""


class Marked(NamedTuple):
    """A marked text, cut before three of its markers.

    Attributes:
      pieces: what comes before the first opening marker; from there to the second; from there to
        the last closing marker; and the rest, which begins with that marker. Joined they are the
        marked text. The first may be empty; the others begin with a space, then their marker, but
        for one that begins the text.
      first: which entity opens first, 0 or 1.
      last: which entity closes last.
    """

    pieces: tuple[str, str, str, str]
    first: int
    last: int


def opening(entity: int, kind: str | None = None) -> str:
    """The marker before an entity, 0 or 1: `@`, or with its type `@ * person *`."""
    if kind is None:
        return SYMBOLS[entity]
    words = " ".join(kind.replace("_", " ").lower().split())
    return f"{SYMBOLS[entity]} {TYPE_SYMBOLS[entity]} {words} {TYPE_SYMBOLS[entity]}"


def mark(pair: Pair, openings: tuple[str, str]) -> Marked:
    """The text with markers around its entities; whitespace beside a marker becomes one space.

    Entities that overlap are marked each for itself, `@ the # old @ man #`. Of two that start
    together the longer one opens first, and of two that end together it closes last; of equal ones
    the first opens first and closes last.
    """
    events = []
    for i, (start, end) in enumerate(pair.spans):
        events.append((start, 1, -end, i))  # at one place, what ends there closes first
        events.append((end, 0, -start, -i))
    events.sort()
    pieces: list[list[str]] = [[]]
    at = 0
    for number, (position, opens, _, i) in enumerate(events):
        pieces[-1].append(pair.text[at:position].strip())
        if opens or number == 3:
            pieces.append([])
        pieces[-1].append(openings[i] if opens else SYMBOLS[-i])
        at = position
    pieces[-1].append(pair.text[at:].strip())
    texts = [" ".join(part for part in piece if part) for piece in pieces]
    before, *rest = texts
    spaced = [" " + text for text in rest]
    if not before:
        spaced[0] = rest[0]
    return Marked((before, spaced[0], spaced[1], spaced[2]), events[0][3], -events[3][3])


class Symbol(NamedTuple):
    """The tokens of a symbol that stands by itself.

    Attributes:
      inside: after other text and a space; its last token holds the symbol.
      leading: at the beginning of a text.
    """

    inside: np.ndarray
    leading: np.ndarray


def encode_symbol(tokenizer: Tokenizer, text: str) -> Symbol:
    """The tokens of `text`, which may be a symbol or a whole marker.

    Raises:
      UserError: the tokenizer does not know it.
    """
    documents = [["a", f" {text}", " a"], [text, " a"]]
    (ids, ends), (leading, leading_ends) = tokenizer.encode_documents(documents)
    # A text without a token has no end of its own: there are fewer then.
    inside = ids[ends[-3] : ends[-2]] if len(ends) == 3 else ids[:0]
    leading = leading[: leading_ends[0]] if len(leading_ends) == 2 else leading[:0]
    unknown = tokenizer.special_ids["unk"]
    if not len(inside) or not len(leading) or unknown in {*inside, *leading}:
        raise UserError(
            "the tokenizer does not know an entity marker",
            where=f"task.markers, tokenizer {tokenizer.name}",
            expected=f"tokens for {text!r}",
            got=", ".join(tokenizer.token(int(id_)) or "?" for id_ in inside) or "none",
            fix="use a tokenizer whose vocabulary has these characters",
        )
    return Symbol(inside, leading)


def check_known(tokenizer: Tokenizer, openings: Iterable[str]) -> None:
    """Refuses markers that the tokenizer does not know.

    Raises:
      UserError: names the first one.
    """
    words = {word for text in openings for word in text.split()}
    for text in (*sorted(words), *sorted(set(openings))):
        encode_symbol(tokenizer, text)
