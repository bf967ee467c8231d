"""Further pieces for a tokenizer, learnt on the text of a new domain or language.

The old pieces keep their ids and the new ones follow them. `tokenizers` cannot go on with training,
so this counts words as the tokenizer cuts them, begins with the old pieces of each, and joins the
most frequent neighbours: for byte-level BPE what training goes on with, and for WordPiece what
`training` does. A piece that is new has old pieces, the text of which was cut so before
(`pieces_before`).
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError
from jaxssl.data.corpus.sentences import split_long
from jaxssl.data.tokenizer.loading import JSON_FILE, JsonTokenizer
from jaxssl.data.tokenizer.tokenizer import CONFIG_FILE, Tokenizer

COVERAGE = 0.9995
"""Share of the text's characters that WordPiece must know. Below it, characters come first."""
TEXT_AT_ONCE = 1 << 20
"""Characters of a text that are cut into words at once."""

Pair = tuple[str, str]


def check_extensible(tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer that pieces cannot be added to.

    Raises:
      UserError: it is neither WordPiece nor byte-level BPE.
    """
    if _kind(tokenizer) is None:
        is_json = isinstance(tokenizer, JsonTokenizer)
        raise UserError(
            "pieces cannot be added to this tokenizer",
            where=f"--extend-vocabulary, {tokenizer.name}",
            expected="WordPiece or byte-level BPE",
            got=f"{_content(tokenizer)['model'].get('type')} of another form"
            if is_json
            else "a SentencePiece model, whose pieces are what it was trained with",
            fix="leave out --extend-vocabulary: the text is then read with the old pieces",
        )


def count_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word is in texts, as the tokenizer's own rules write and cut them."""
    library = _library(tokenizer)
    normalizer, cutter = library.normalizer, library.pre_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        for part in split_long(text, TEXT_AT_ONCE):
            plain = normalizer.normalize_str(part) if normalizer is not None else part
            counts.update(word for word, _ in cutter.pre_tokenize_str(plain))
    return counts


def extend(
    tokenizer: Tokenizer, words: Mapping[str, int], count: int, min_frequency: int = 2
) -> Tokenizer:
    """The tokenizer with at most `count` more pieces, which are learnt of words and their counts.

    Args:
      words: as `count_words` counts them.
      min_frequency: how often two pieces must be side by side to be joined.

    Raises:
      UserError: a tokenizer of another kind, or text that has nothing to learn from.
    """
    refuse_below(1, extend_vocabulary=count)
    check_extensible(tokenizer)
    join = _join_wordpiece if _kind(tokenizer) == "WordPiece" else _join_bytes
    larger, found = tokenizer, []
    if _kind(tokenizer) == "WordPiece":
        found = _missing_characters(tokenizer, words, min_frequency)[:count]
        larger = _with_pieces(tokenizer, found, [])
    known = _content(larger)["model"]["vocab"]
    pieces = _cut(larger, words)
    merges = learn_merges(pieces, join, known, count - len(found), min_frequency)
    found += [made for _, made in merges if made not in known]
    if not found:
        raise UserError(
            "the text has nothing to learn pieces from",
            where="--extend-vocabulary",
            expected=f"pieces that stand side by side at least {min_frequency} times",
            got=f"{len(words):,} different words, which are pieces already or too rare",
            fix="give more text, or leave out --extend-vocabulary",
        )
    made = _with_pieces(tokenizer, found, [pair for pair, _ in merges])
    assert tokenizer.is_beginning_of(made), "an old piece has moved"
    return made


def learn_merges(
    pieces: Mapping[tuple[str, ...], int],
    join: Callable[[str, str], str],
    known: Iterable[str],
    count: int,
    min_frequency: int,
) -> list[tuple[Pair, str]]:
    """Pairs to join and what each makes, in the order in which they are learnt: always the most
    frequent one, of equals the first in the order of its texts.

    A pair that makes what is known already is joined too, and does not count.

    Args:
      pieces: {a word's pieces: how often it is there}.
      join: makes one piece of two.
      known: the pieces there are.
      count: how many new pieces to make.
    """
    known, words, counts = {*known}, [list(word) for word in pieces], list(pieces.values())
    totals: Counter[Pair] = Counter()
    places: dict[Pair, set[int]] = defaultdict(set)
    for number, word in enumerate(words):
        for pair in zip(word, word[1:]):
            totals[pair] += counts[number]
            places[pair].add(number)
    heap = [(-total, pair) for pair, total in totals.items()]
    heapq.heapify(heap)
    found: list[tuple[Pair, str]] = []
    while heap and count > 0:
        total, pair = heapq.heappop(heap)
        if -total != totals[pair]:
            continue  # its number has changed since: it is there again with the right one
        if -total < min_frequency:
            break
        made = join(*pair)
        found.append((pair, made))
        count -= made not in known
        known.add(made)
        changed = _join_everywhere(pair, made, words, counts, totals, places)
        for each in changed:
            if totals[each] > 0:
                heapq.heappush(heap, (-totals[each], each))
    return found


def _join_everywhere(
    pair: Pair,
    made: str,
    words: list[list[str]],
    counts: Sequence[int],
    totals: Counter[Pair],
    places: dict[Pair, set[int]],
) -> set[Pair]:
    """Joins a pair in all words; the pairs whose totals have changed."""
    changed: set[Pair] = set()
    for number in sorted(places.pop(pair)):
        old = words[number]
        new = _joined(old, pair, made)
        if len(new) == len(old):
            continue
        for each in zip(old, old[1:]):
            totals[each] -= counts[number]
            changed.add(each)
        for each in zip(new, new[1:]):
            totals[each] += counts[number]
            places[each].add(number)
            changed.add(each)
        words[number] = new
    totals[pair] = 0
    return changed


def _joined(word: Sequence[str], pair: Pair, made: str) -> list[str]:
    """A word's pieces with each such pair, from the left, as one."""
    new, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            new.append(made)
            i += 2
        else:
            new.append(word[i])
            i += 1
    return new


# --- The two kinds ------------------------------------------------------------------------------


def _kind(tokenizer: Tokenizer) -> str | None:
    """WordPiece, BPE over bytes, or None for another one."""
    if not isinstance(tokenizer, JsonTokenizer):
        return None
    content = _content(tokenizer)
    model, cutter = content["model"], json.dumps(content.get("pre_tokenizer"))
    if model.get("type") == "WordPiece":
        usual = content.get("pre_tokenizer") and model["continuing_subword_prefix"] == "##"
        return "WordPiece" if usual else None
    affixes = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    return "BPE" if model.get("type") == "BPE" and '"ByteLevel"' in cutter and not affixes else None


def _join_bytes(left: str, right: str) -> str:
    return left + right


def _join_wordpiece(left: str, right: str) -> str:
    return left + right.removeprefix("##")


def _cut(tokenizer: Tokenizer, words: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    """{the pieces of a word: its count}, without words that the tokenizer cannot write and those of
    one piece. Words of the same pieces are counted together."""
    model, unknown = _library(tokenizer).model, _content(tokenizer)["model"].get("unk_token")
    found: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        pieces = tuple(token.value for token in model.tokenize(word))
        if len(pieces) > 1 and unknown not in pieces:
            found[pieces] += count
    return found


def _missing_characters(
    tokenizer: Tokenizer, words: Mapping[str, int], min_frequency: int
) -> list[str]:
    """Characters that WordPiece lacks, as beginnings of words and within them, the most frequent
    first: as many as it takes to know nearly all of the text."""
    vocabulary, missing = _content(tokenizer)["model"]["vocab"], Counter()
    total = 0
    for word, count in words.items():
        total += count * len(word)
        for place, character in enumerate(word):
            piece = f"##{character}" if place else character
            if piece not in vocabulary:
                missing[piece] += count
    left, found = sum(missing.values()), []
    for piece, count in sorted(missing.items(), key=lambda item: (-item[1], item[0])):
        if left <= (1 - COVERAGE) * total or count < min_frequency:
            break
        found.append(piece)
        left -= count
    return found


def _with_pieces(tokenizer: Tokenizer, pieces: Sequence[str], merges: Sequence[Pair]) -> Tokenizer:
    """The tokenizer with pieces behind its last id, and merges behind its last one."""
    content = _content(tokenizer)
    model = content["model"]
    vocabulary = dict(model["vocab"])
    for token in content.get("added_tokens") or []:  # else its id would follow the new pieces
        vocabulary.setdefault(token["content"], token["id"])
    vocabulary |= {piece: tokenizer.vocab_size + i for i, piece in enumerate(pieces)}
    model = {**model, "vocab": vocabulary}
    if "merges" in model:
        as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
        more = [" ".join(pair) if as_text else list(pair) for pair in merges]
        model["merges"] = [*model["merges"], *more]
    config = json.loads(tokenizer.files[CONFIG_FILE])
    return JsonTokenizer(tokenizer.name, {**content, "model": model}, config)


def _content(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.files[JSON_FILE])


def _library(tokenizer: Tokenizer) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(tokenizer.files[JSON_FILE].decode())


# --- What a new piece was before ----------------------------------------------------------------


def pieces_before(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """The ids that `old` cuts the text of each further piece of `new` into; none for an id that is
    not used.

    Args:
      old: the beginning of `new`.
    """
    if old.fingerprint == new.fingerprint:
        return []
    assert old.is_beginning_of(new), "not the beginning of the other"
    further = [new.token(id_) for id_ in range(old.vocab_size, new.vocab_size)]
    if not isinstance(old, JsonTokenizer):  # a SentencePiece model's are all special
        return [ids.tolist() for ids in old.encode_batch([piece or "" for piece in further])]
    added = {token["content"] for token in _content(new).get("added_tokens") or []}
    is_wordpiece = _content(old)["model"].get("type") == "WordPiece"
    vocabulary, model = _content(old)["model"]["vocab"], _library(old).model

    def before(piece: str | None) -> list[int]:
        if piece is None:
            return []
        if piece in added:
            return old.encode_batch([piece])[0].tolist()
        if is_wordpiece:
            unknown = old.special_ids["unk"]
            return _longest(piece, vocabulary) or ([] if unknown is None else [unknown])
        return [token.id for token in model.tokenize(piece)]

    return [before(piece) for piece in further]


def _longest(piece: str, vocabulary: Mapping[str, int]) -> list[int]:
    """WordPiece's ids of a piece, which may be the middle of a word; none where a character of it
    is unknown."""
    lead, rest, ids = ("##", piece[2:], []) if piece[:2] == "##" and piece[2:] else ("", piece, [])
    while rest:
        size = next((n for n in range(len(rest), 0, -1) if lead + rest[:n] in vocabulary), 0)
        if not size:
            return []
        ids.append(vocabulary[lead + rest[:size]])
        lead, rest = "##", rest[size:]
    return ids
