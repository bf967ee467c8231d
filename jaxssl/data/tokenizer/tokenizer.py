"""Tokenizers: text to ids and back, whatever library made them.

Text is data: a document that contains "[SEP]" or "<|endoftext|>" is encoded as those characters,
never as the special token. Nothing is added (no CLS), cut or padded.
"""

import copy
import functools
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.data.corpus.sentences import is_sentence_end, split_long
from jaxssl.data.store.manifest import ROLES
from jaxssl.data.tokenizer.char_spans import trim_spaces

MAX_PIECE = 1 << 13
"""Characters that a library is given at once: bounds its memory for a text without spaces."""
MAX_BATCH = 1 << 18
"""Characters of a batch: a library's own record of a token takes a hundred bytes or more."""
CONFIG_FILE = "tokenizer_config.json"
# Cut before every run of whitespace, this must give the tokens of the whole.
_PROBE = (
    "Hello there, World!  It's 3.14 times\n\n    (as \u201cold\u201d).\tNa\u00efve caf\u00e9s"
    " don't [stop]; \u00fcber \u2014 fine. \n x=y_z #1 \U0001f600 \u0416\u0443\u043a\n"
)
_CJK_PROBE = ("\u4f60\u597d\u3002", "\u518d\u89c1")

Encoding = tuple[np.ndarray, np.ndarray]
"""Ids of a text, int32 [n], and spans of characters, [n, 2], or ends of sentences, [s]."""

Frame = tuple[list[int], list[int], list[int]]
"""Special tokens before, between and after the texts of a row."""


class Tokenizer(ABC):
    """One tokenizer.

    Args:
      name: what to call it in messages and manifests.
      files: the content of the files of its directory, by name.
      vocab_size: largest id + 1.
      special_ids: id of each role (pad, unk, cls, sep, mask, bos, eos); None for those it has not.
      special_tokens: the strings that would be special if they were not data, with their ids.
    """

    def __init__(
        self,
        name: str,
        files: Mapping[str, bytes],
        vocab_size: int,
        special_ids: Mapping[str, int | None],
        special_tokens: Mapping[str, int],
    ):
        self.name, self.files, self.vocab_size = name, dict(files), vocab_size
        self.special_ids = {role: special_ids.get(role) for role in ROLES}
        self.special_tokens = dict(special_tokens)
        self._forbidden = np.zeros(vocab_size, bool)
        self._forbidden[list(special_tokens.values())] = True
        roles = {role: id_ for role, id_ in self.special_ids.items() if id_ is not None}
        self._forbidden[[id_ for role, id_ in roles.items() if role != "unk"]] = True
        unknown = roles.pop("unk", None)
        if unknown is not None and unknown not in roles.values():
            self._forbidden[unknown] = False

    @property
    def document_end(self) -> int:
        """The id written after each document: eos, or else sep. A `UserError` without either."""
        role = "sep" if self.special_ids["eos"] is None else "eos"
        if self.special_ids[role] is None:
            check_roles(self, ("eos",), "to end a document in a token store (sep would do too)")
        return int(self.special_ids[role] or 0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides how text becomes ids. Equal after saving and loading."""
        content = json.dumps([self._content(), self.special_ids], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def is_beginning_of(self, other: "Tokenizer") -> bool:
        """Whether `other` has all pieces of this one under the same ids, the same roles and special
        tokens, further special ones only behind them, and reads text by the same rules: then rows
        of this one's ids mean the same to a model of the other's. A tokenizer is the beginning of
        itself."""
        if self.fingerprint == other.fingerprint:
            return True
        own = {token: i for token, i in other.special_tokens.items() if i < self.vocab_size}
        same = (self.special_ids, self.special_tokens) == (other.special_ids, own)
        if not same or self.vocab_size > other.vocab_size or not self._has_rules_of(other):
            return False
        return all(self.token(id_) == other.token(id_) for id_ in range(self.vocab_size))

    def _has_rules_of(self, other: "Tokenizer") -> bool:
        """Whether `other` reads text as this one does, but for pieces that it has besides."""
        del other
        return False

    def frame(self, pair: bool) -> Frame:
        """Special tokens (before, between, after) the texts of a row, as the tokenizer's own
        template has them.

        Without a template `[CLS] a [SEP] b [SEP]` where it has both roles; else `a <end> b <end>`,
        whose last token has seen the whole row, as causal models need.
        """
        own = self.template(pair)
        if own is not None:
            return own
        cls, sep = self.special_ids["cls"], self.special_ids["sep"]
        if cls is not None and sep is not None:
            return [cls], [sep] if pair else [], [sep]
        end = self.document_end
        return [], [end] if pair else [], [end]

    def template(self, pair: bool) -> Frame | None:
        """What its files say that comes before, between and after texts; None if they say
        nothing."""
        del pair
        return None

    @property
    def mask_strips(self) -> tuple[bool, bool]:
        """Whether the mask token takes the spaces before it, and after it, along."""
        return False, False

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32 arrays. No special token comes out of a text."""
        rows = [row for group in _groups(texts, MAX_BATCH) for row in self._encode(group)]
        if rows and self._forbidden[np.concatenate(rows)].any():
            for i, row in enumerate(rows):
                if self._forbidden[row].any():
                    rows[i] = self._encode_around(texts[i])
        return rows

    def special_in(self, texts: Iterable[str]) -> list[str]:
        """The special tokens' strings that stand in texts, which are read as any other text."""
        return [token for token in self.special_tokens if any(token in text for text in texts)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids of each text, as `encode_batch` gives them, and where its tokens stand in it.

        Returns:
          For each text its ids, int32 [n], and the characters that each token spans, int32 [n, 2]:
          start and exclusive end in the text as it was given, whatever was lower-cased, composed or
          decomposed. Whitespace at a token's ends is left out, so a token of whitespace alone spans
          nothing. Tokens that share a character, as its bytes do, all span it. A character that the
          tokenizer drops (an accent of its own, in lower-casing WordPiece) may be in no span.
        """
        rows = [row for group in _groups(texts, MAX_BATCH) for row in self._encode_spans(group)]
        for i, (ids, _) in enumerate(rows):
            if self._forbidden[ids].any():
                rows[i] = self._encode_spans_around(texts[i])
        return [(ids, trim_spaces(text, spans)) for text, (ids, spans) in zip(texts, rows)]

    def encode_with_special(self, texts: Sequence[str]) -> list[Encoding]:
        """Ids of texts in which a special token's string is that token, as a template writes them,
        and the characters that each token spans, int32 [n, 2]."""
        longest_first = sorted(self.special_tokens, key=len)[::-1]
        pattern = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        return [self._encode_parted(pattern.split(text)) for text in texts]

    def _encode_parted(self, pieces: Sequence[str]) -> Encoding:
        """Ordinary texts and, between two of them each, a special token's string."""
        rows: list[Encoding] = []
        for piece in pieces:
            if piece in self.special_tokens:
                rows.append((np.array([self.special_tokens[piece]]), np.array([[0, len(piece)]])))
            else:
                rows += self._encode_spans([piece])
        spans = _shifted(pieces, [spans for _, spans in rows])
        return np.concatenate([ids for ids, _ in rows]).astype(np.int32), spans

    def encode_documents(self, documents: Sequence[Sequence[str]]) -> list[Encoding]:
        """Ids and sentence ends of documents given as sentences (see `split_sentences`).

        Returns:
          For each document its ids, int32 [n], equal to those of its whole text, and the exclusive
          ends of its sentences, int64 [s], strictly increasing, the last one n. Sentences without a
          token are left out, so a document may come out empty.
        """
        pieces, counts = self._pieces(documents)
        rows, position, result = self.encode_batch(pieces), 0, []
        for sentences, count in zip(documents, counts):
            if count is None:
                result.append(self._encode_whole(sentences)[:2])
                continue
            chosen = rows[position : position + sum(count)]
            position += len(chosen)
            result.append(_join(chosen, count))
        return result

    def encode_documents_with_offsets(
        self, documents: Sequence[Sequence[str]]
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The same, and the characters of the whole document that each token spans, int32 [n, 2],
        as `encode_with_offsets` has them."""
        pieces, counts = self._pieces(documents)
        rows, position, result = self.encode_with_offsets(pieces), 0, []
        for sentences, count in zip(documents, counts):
            if count is None:
                ids, ends, spans = self._encode_whole(sentences)
                result.append((ids, ends, trim_spaces("".join(sentences), spans)))
                continue
            chosen = slice(position, position + sum(count))
            position = chosen.stop
            ids, ends = _join([ids for ids, _ in rows[chosen]], count)
            result.append((ids, ends, _shifted(pieces[chosen], [s for _, s in rows[chosen]])))
        return result

    def _pieces(
        self, documents: Sequence[Sequence[str]]
    ) -> tuple[list[str], list[list[int] | None]]:
        """What a library is given of documents that may be cut, and of each document how many
        pieces each sentence has; None of one that must be encoded whole."""
        pieces: list[str] = []
        counts: list[list[int] | None] = []
        for sentences in documents:
            if self._can_cut(sentences):
                if max(map(len, sentences), default=0) <= MAX_PIECE:
                    counts.append([1] * len(sentences))
                    pieces += sentences
                    continue
                cut = [split_long(sentence, MAX_PIECE) for sentence in sentences]
                counts.append([len(c) for c in cut])
                pieces += [piece for sentence in cut for piece in sentence]
            else:
                counts.append(None)
        return pieces, counts

    def with_chat_template(self, template: str) -> "Tokenizer":
        """The same, with another template for conversations in its files."""
        config = json.loads(self.files[CONFIG_FILE]) | {"chat_template": template}
        made = copy.copy(self)
        text = json.dumps(config, ensure_ascii=False, indent=1) + "\n"
        made.files = {**self.files, CONFIG_FILE: text.encode()}
        return made

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer's directory, which `loading.load_tokenizer` reads."""
        for name, content in self.files.items():
            with atomic_write(Path(directory) / name, "wb") as file:
                file.write(content)

    def word_starts(self) -> np.ndarray:
        """Which pieces begin a word, bool [vocab_size], for masking whole words.

        In WordPiece those without "##". In the others those that begin with whitespace (or its
        mark) or ASCII punctuation; so letters right after punctuation, "(word", belong to its word.
        The first piece of a text begins a word whatever is said here.
        """
        starts = [self._starts_word(self.token(id_) or "") for id_ in range(self.vocab_size)]
        return np.array(starts, bool) | self._forbidden

    def sentence_ends(self) -> np.ndarray:
        """Which pieces end a sentence, bool [vocab_size]: those that are nothing but a full stop or
        the like, perhaps with brackets and quotes that close."""
        ends = np.zeros(self.vocab_size, bool)
        for id_ in np.flatnonzero(~self._forbidden).tolist():
            token = self.token(id_) or ""
            if token and not any(c.isascii() and c.isalnum() for c in token):
                ends[id_] = is_sentence_end(self.decode([id_]).removeprefix("##").strip())
        return ends

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids. Special tokens are shown."""

    @abstractmethod
    def token(self, id_: int) -> str | None:
        """The piece with this id, as the vocabulary writes it; None for an id it skips."""

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `encode_batch`, but special tokens may come out."""

    @abstractmethod
    def _encode_spans(self, texts: Sequence[str]) -> list[Encoding]:
        """As `_encode`, with the characters each token spans, int32 [n, 2]; spaces may be in."""

    @abstractmethod
    def _content(self) -> Any:
        """Plain values that decide how text becomes ids."""

    @abstractmethod
    def _starts_word(self, token: str) -> bool: ...

    @functools.cached_property
    def _cuts(self) -> tuple[bool, bool]:
        """Whether cuts before whitespace, and between ideographs, leave the tokens as they are."""
        words = re.findall(r"\s*\S+\s*$|\s*\S+", _PROBE)
        return self._same_cut(words), self._same_cut(_CJK_PROBE)

    def _same_cut(self, pieces: Sequence[str]) -> bool:
        whole = self._encode(["".join(pieces)])[0]
        return np.array_equal(np.concatenate(self._encode(pieces)), whole)

    def _can_cut(self, sentences: Sequence[str]) -> bool:
        at_spaces, anywhere = self._cuts
        if len(sentences) == 1:
            return at_spaces or len(sentences[0]) <= MAX_PIECE
        return at_spaces and (anywhere or all(s[0].isspace() for s in sentences[1:] if s))

    def _encode_around(self, text: str) -> np.ndarray:
        """Encodes a text that holds special tokens' strings."""
        ids = np.concatenate(self._encode(self.cut_around_special(text)))
        self._check_ordinary(ids, text)
        return ids

    def _encode_spans_around(self, text: str) -> Encoding:
        """The same, with the characters that each token spans."""
        pieces = self.cut_around_special(text)
        rows = self._encode_spans(pieces)
        ids = np.concatenate([ids for ids, _ in rows])
        self._check_ordinary(ids, text)
        return ids, _shifted(pieces, [spans for _, spans in rows])

    def cut_around_special(self, text: str) -> list[str]:
        """The text, cut after the first letter of each special token's string in it."""
        pattern = "|".join(re.escape(t) for t in sorted(self.special_tokens, key=len)[::-1])
        cuts = [
            m.start() + 1 for m in re.finditer(f"(?=({pattern or '(?!)'}))", text, re.IGNORECASE)
        ]
        bounds = [0, *cuts, len(text)]
        return [text[a:b] for a, b in zip(bounds, bounds[1:]) if b > a]

    def _check_ordinary(self, ids: np.ndarray, text: str) -> None:
        if not self._forbidden[ids].any():
            return
        token = self.token(int(ids[self._forbidden[ids]][0]))
        raise UserError(
            f"the tokenizer makes its special token {token!r} of ordinary text",
            where=self.name,
            expected="special tokens that are not pieces of text",
            got=f"a text with {token!r} in it: {text[:80]!r}",
            fix="use another tokenizer, or take this string out of the text",
        )

    def _encode_whole(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Encodes a document whole (up to `MAX_PIECE`) and finds its sentences by characters; also
        the characters that each token spans, int32 [n, 2], spaces may be in."""
        rows, ends, spans_of, texts, total = [], [], [], [], 0
        for group in _groups(sentences, MAX_PIECE):
            text = "".join(group)
            ids, spans = self._encode_spans([text])[0]
            if self._forbidden[ids].any():
                parts = self.encode_with_offsets(group)
                ids = np.concatenate([ids for ids, _ in parts])
                spans = _shifted(group, [spans for _, spans in parts])
                ends_here = np.cumsum([len(ids) for ids, _ in parts])
            else:
                ends_here = np.searchsorted(spans[:, 0], np.cumsum([len(s) for s in group]))
            rows.append(ids)
            ends.append(ends_here + total)
            spans_of.append(spans)
            texts.append(text)
            total += len(ids)
        return np.concatenate(rows), _ends(np.concatenate(ends)), _shifted(texts, spans_of)


def check_roles(tokenizer: Tokenizer, roles: Iterable[str], why: str) -> None:
    """Raises a `UserError` if the tokenizer lacks one of `roles`; `why` says what needs them."""
    missing = [role for role in roles if tokenizer.special_ids.get(role) is None]
    if missing:
        has = [role for role, id_ in tokenizer.special_ids.items() if id_ is not None]
        raise UserError(
            f"the tokenizer has no {' and no '.join(missing)} token, needed {why}",
            where=tokenizer.name,
            expected=", ".join(roles),
            got=", ".join(has) or "no special tokens",
            fix="use a tokenizer that has them, or train one with `jaxssl tokenizer`",
        )


def is_word_start(text: str) -> bool:
    """Whether a piece with this text begins a word: by whitespace or ASCII punctuation."""
    first = text[:1]
    return first.isspace() or (first.isascii() and not first.isalnum())


def _join(rows: Sequence[np.ndarray], counts: Sequence[int]) -> Encoding:
    """Joins pieces' ids into a document's; `counts` says how many pieces each sentence has."""
    if len(rows) == 1:  # a document without sentences: numpy's small calls would cost more
        return rows[0], np.array([rows[0].size] if rows[0].size else [], np.int64)
    ids = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    return ids, _ends(ends[np.cumsum(counts) - 1] if len(counts) else ends)


def _ends(ends: np.ndarray) -> np.ndarray:
    """Sentence ends without those of sentences that have no token."""
    ends = np.asarray(ends, np.int64)
    return ends[np.diff(ends, prepend=0) > 0]


def _shifted(pieces: Sequence[str], spans: Sequence[np.ndarray]) -> np.ndarray:
    """Spans of characters in each piece as spans in the pieces joined, int32 [n, 2]."""
    if len(pieces) == 1:
        return spans[0]
    shifts = np.cumsum([0, *map(len, pieces)])
    moved = [each + shift for each, shift in zip(spans, shifts)]
    return np.concatenate([np.zeros((0, 2), np.int64), *moved]).astype(np.int32)


def _groups(sentences: Sequence[str], limit: int) -> Iterable[list[str]]:
    """Texts in groups of at most `limit` characters (or one text)."""
    group: list[str] = []
    size = 0
    for sentence in sentences:
        if group and size + len(sentence) > limit:
            yield group
            group, size = [], 0
        group.append(sentence)
        size += len(sentence)
    if group:
        yield group
