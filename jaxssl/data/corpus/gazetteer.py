"""Phrases that are found in texts: one structure for all of them, one pass over a text."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

from jaxssl.core.bounds import check_local
from jaxssl.core.errors import UserError
from jaxssl.core.paths import looked_up, suggestion

# Scripts that write no spaces between words: each of their letters is a word.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PART = re.compile(rf"(\s*)([^\W{_ALONE}]+|[{_ALONE}]|[^\w\s])")
"""A word or a sign, and the whitespace before it."""
_END = ""
"""The key of what is there where a phrase ends; no part is empty."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GazetteerConfig:
    """A list of phrases (names, terms), whose places in the text are marked."""

    path: str
    """A file in UTF-8 with a phrase a line. The longest is taken where several begin; a phrase is
    found between the ends of words alone, and any whitespace between its words does."""
    ignore_case: bool = False
    """Whether "new york" is found where the list has "New York"."""

    def __post_init__(self):
        check_local(self, "path")


class Gazetteer:
    """Finds phrases.

    Words (runs of letters, digits and _; of scripts without spaces single letters) and other signs
    are the parts of phrases and texts; a tree of the phrases' parts is walked from each part of a
    text. So the time does not depend on how many phrases there are.

    Args:
      phrases: those to find; blank ones are left out.
      ignore_case: whether case is nothing.
    """

    def __init__(self, phrases: Iterable[str], ignore_case: bool = False):
        self.ignore_case, self.size = ignore_case, 0
        self._root: dict[str, Any] = {}
        for phrase in phrases:
            self._add(phrase.strip())

    def _add(self, phrase: str) -> None:
        node = self._root
        for space, word in self._parts(phrase):
            node = node.setdefault(" " + word if space else word, {})
        if phrase and _END not in node:
            node[_END] = {}
            self.size += 1

    def _parts(self, text: str) -> list[tuple[str, str]]:
        parts = _PART.findall(text)
        return [(space, word.casefold()) for space, word in parts] if self.ignore_case else parts

    def find(self, text: str) -> list[tuple[int, int]]:
        """Where phrases stand in a text, from left to right, the longest at each place: the start
        and the exclusive end of each, in characters; none overlaps another."""
        parts, root = _PART.findall(text), self._root
        words = [word for _, word in parts]
        if self.ignore_case:
            words = [word.casefold() for word in words]
        found, behind = [], 0
        for first, word in enumerate(words):
            if word not in root or first < behind:
                continue
            node, at, last = root[word], first + 1, 0
            while True:
                last = at if _END in node else last
                if at == len(words):
                    break
                node = node.get(" " + words[at] if parts[at][0] else words[at])
                if node is None:
                    break
                at += 1
            if last:
                found.append((first, last))
                behind = last
        if not found:
            return []
        ends = list(accumulate(len(space) + len(word) for space, word in parts))
        return [(ends[first] - len(parts[first][1]), ends[last - 1]) for first, last in found]


def read_gazetteer(config: GazetteerConfig) -> Gazetteer:
    """The phrases of a file.

    Raises:
      UserError: no file there, not UTF-8, or no phrase in it.
    """
    try:
        text = _read(config).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            "the gazetteer is not text in UTF-8",
            where=config.path,
            expected="a phrase a line, in UTF-8",
            got=f"{error.reason} at byte {error.start}",
            fix="convert it, as with iconv -f cp1252 -t utf-8",
        ) from None
    gazetteer = Gazetteer(text.splitlines(), config.ignore_case)
    if not gazetteer.size:
        raise UserError(
            "the gazetteer is empty",
            where=config.path,
            expected="a phrase a line",
            got="no phrase",
            fix="write phrases into it, or leave `gazetteer` out",
        )
    return gazetteer


def fingerprint(config: GazetteerConfig) -> str:
    """SHA-256 of the file's content."""
    return hashlib.sha256(_read(config)).hexdigest()


def _read(config: GazetteerConfig) -> bytes:
    try:
        return Path(config.path).read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise UserError(
            "the gazetteer cannot be read",
            where=config.path,
            expected="a file with a phrase a line",
            got=looked_up(config.path) if missing else error.strerror,
            fix=suggestion(config.path) if missing else None,
        ) from None
