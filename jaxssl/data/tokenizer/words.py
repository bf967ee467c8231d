"""Sentences given as words, as token ids: each word as it would be in running text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.ragged import ragged_arange, row_splits
from jaxssl.data.tokenizer.tokenizer import Tokenizer

_PROBE = ("the", "cat", "sat", "here")


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of the words of sentences.

    Attributes:
      tokens: int32 [total], of all words, one after the other.
      starts: int64 [W + 1], where each word starts among them; every word has a token.
      sentences: int64 [N + 1], which word each sentence starts with.
      nothing: the different words of which the tokenizer makes nothing.
    """

    tokens: np.ndarray
    starts: np.ndarray
    sentences: np.ndarray
    nothing: tuple[str, ...] = ()


def encode_words(
    tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], places: Sequence[str]
) -> Words:
    """Encodes each different word once.

    A word of which the tokenizer makes nothing (an empty string, a zero-width character) is its
    unknown token, so that no word is without a token.

    Args:
      places: where each sentence is, for messages.

    Raises:
      UserError: such a word, and the tokenizer has no unknown token.
    """
    flat = [word for words in sentences for word in words]
    numbers = {word: i for i, word in enumerate(dict.fromkeys(flat))}
    prefix = word_prefix(tokenizer)
    rows = tokenizer.encode_batch([prefix + word.removeprefix(prefix) for word in numbers])
    unknown = tokenizer.special_ids["unk"]
    nothing = tuple(word for word, i in numbers.items() if len(rows[i]) == 0)
    for word in nothing:
        if unknown is None:
            raise _without_token(tokenizer, word, sentences, places)
        rows[numbers[word]] = np.array([unknown], np.int32)
    lengths = np.array([len(row) for row in rows], np.int64)
    number = np.fromiter(map(numbers.__getitem__, flat), np.int64, len(flat))
    starts = row_splits(lengths[number])
    tokens = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    taken = ragged_arange(row_splits(lengths)[number], lengths[number])
    counts = np.array([len(words) for words in sentences], np.int64)
    return Words(tokens[taken], starts, row_splits(counts), nothing)


def word_prefix(tokenizer: Tokenizer) -> str:
    """What to write before a word that is encoded alone, to get its tokens within a text.

    A space in byte-level BPE, nothing in WordPiece; SentencePiece puts its own mark there.

    Raises:
      UserError: the tokenizer has tokens across words.
    """
    whole = tokenizer.encode_batch([" ".join(_PROBE)])[0]
    first, *others = _PROBE
    for prefix in ("", " "):
        parts = tokenizer.encode_batch([first, *(prefix + word for word in others)])
        if np.array_equal(np.concatenate(parts), whole):
            return prefix
    raise UserError(
        "the tokenizer does not encode a text word by word",
        where=tokenizer.name,
        expected="tokens within words, so that each word has its own",
        got=f"other tokens for {' '.join(_PROBE)!r} than for its words",
        fix="use a tokenizer that parts texts at spaces",
    )


def _without_token(
    tokenizer: Tokenizer, word: str, sentences: Sequence[Sequence[str]], places: Sequence[str]
) -> UserError:
    sentence = next(i for i, words in enumerate(sentences) if word in words)
    return UserError(
        "the tokenizer makes no token of a word, and has none for unknown words",
        where=f"{places[sentence]}, word {sentences[sentence].index(word)}",
        expected=f"a word that {tokenizer.name} can encode",
        got=repr(word),
        fix="take the word out, or use a tokenizer with an unknown token",
    )
