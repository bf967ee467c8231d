"""Pairs of texts from one document or two, anchored at a sentence and so random-access.

Follows `create_instances_from_document` of google-research/bert (create_pretraining_data.py) for
one instance: a chunk of sentences up to a target length, a cut between two of them, a random
second half the time, truncation from either end of the longer.

Where it departs. BERT walks each document from its start; the next chunk begins where the last
one stopped (or at what a random second "put back"). Here every sentence of the split anchors one
row an epoch, so that a row can be had from its number alone. What this changes:

- An epoch has as many rows as the split has sentences, and its chunks overlap: each sentence
  appears in about (sentences a chunk) rows an epoch. BERT's ten passes with new masks
  (`dupe_factor`) are what one or two epochs are here.
- BERT draws the target once a document and pass, and a short target cuts a document into more
  rows. Here it is drawn for each row, from the distribution that BERT's rows have: each target
  weighted by the rows that a walk with it makes of a token, for sentences as long as this split's.
  `short_probability` keeps BERT's meaning, the share of documents.
- Anchors are uniform over sentences. BERT visits the first sentence of each document always and
  its last few more or less often by where the walk lands, so the shares of chunks that end with
  their document, and with them of one-sentence chunks, which are always random seconds, differ
  by about the inverse of the number of rows a document has.
- The random second comes from another document always; BERT gives up after ten draws.

Given the anchor and the target, a row's distribution is BERT's.

Two further kinds tell the order of the two. `sentence_order` (ALBERT, Lan et al., 2020) changes the
two texts round half the time; where the chunk is one sentence, ALBERT's builder takes a random
second and calls it swapped, so that its task holds next-sentence prediction: here such a row has a
label without weight. `sentence_distance` (StructBERT, Wang et al., 2020) has a next, a previous or
another document's text, a third each.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data import counter
from jaxssl.data.ragged import ragged_arange
from jaxssl.data.store.rows import Batch, identity, laid_out, pad_id
from jaxssl.data.store.split import Split

_PURPOSE = 0x7061697273
_SPECIALS = 3
"""[CLS], [SEP] and [SEP]: what a row holds beside its two texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """Rows are pairs of texts, one anchored at each sentence."""

    name: Literal["pairs"] = "pairs"
    """Kind of rows: sentence pairs."""
    label: Literal["next_sentence", "sentence_order", "sentence_distance"] = "next_sentence"
    """What the second text may be, and is told apart by the objective of this name: the next or a
    random one; the two changed round; or the next, the previous, or a random one."""
    short_probability: float = 0.1
    """Share of documents whose target length is drawn uniformly from [2, sequence_length - 3], as
    in BERT's builder; of the rows it is a larger share, since short targets make more of them."""
    random_probability: float = 0.5
    """Share of rows, of those with two sentences or more, whose second text is a random one; for
    next_sentence."""

    def __post_init__(self):
        for field in ("short_probability", "random_probability"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise UserError(
                    "a probability is out of range",
                    where=field,
                    expected="a number from 0 to 1",
                    got=value,
                )

    @property
    def random_share(self) -> float:
        """Of rows whose second text is a random one."""
        shares = {"sentence_order": 0.0, "sentence_distance": 1 / 3}
        return shares.get(self.label, self.random_probability)

    def open(
        self,
        split: Split,
        sequence_length: int,
        seed: int,
        special_ids: Mapping[str, int | None],
    ) -> "PairRows":
        """Opens the split's rows of `sequence_length` tokens, drawn from `seed`."""
        return PairRows(self, split, sequence_length, seed, special_ids)


class PairRows:
    """Row i is `[CLS] A [SEP] B [SEP]` with A starting at sentence i (see the module)."""

    tokens_left_over = 0

    def __init__(
        self,
        config: Pairs,
        split: Split,
        sequence_length: int,
        seed: int,
        special_ids: Mapping[str, int | None],
    ):
        _check(split, sequence_length)
        self.config, self.split, self.seed = config, split, seed
        self.sequence_length, self.num_rows = sequence_length, split.num_sentences
        self.pad_id = pad_id(special_ids)
        self._cls, self._sep = _roles(special_ids)
        lengths = _some_lengths(split)
        self._targets = target_distribution(config, lengths, sequence_length - _SPECIALS)

    def rows(self, indices: np.ndarray, epoch: int) -> Batch:
        """See `RowSource.rows`. The label int32 [B] has the name of its objective:

        - `next_sentence` is 1 where the second text is random;
        - `sentence_order` is 1 where the two are changed round;
        - `sentence_distance` is 0, 1, 2: the next, the previous, of another document.

        The last two come with `pair_weights` float32 [B], 0 where the chunk was one sentence.
        """
        indices = np.asarray(indices, np.int64)
        draw = _Draws(counter.key(_PURPOSE, self.seed, epoch), indices)
        first, second, random, alone = self._pair(indices, draw)
        if self.config.label == "next_sentence":
            labels = {"next_sentence": random.astype(np.int32)}
        else:
            swapped = ~random & (draw.uniform(8) < 0.5)
            first, second = _swapped(first, second, swapped)
            label = swapped + 2 * random * (self.config.label == "sentence_distance")
            labels = {
                self.config.label: label.astype(np.int32),
                "pair_weights": (~alone).astype(np.float32),
            }
        first, second = _truncate(first, second, self.sequence_length - _SPECIALS, draw)
        return {**self._assemble(first, second), **labels, **identity(indices, epoch)}

    def _pair(self, anchors: np.ndarray, draw: "_Draws"):
        """The two texts before truncation, as (starts, lengths), which seconds are random, and
        which chunks are one sentence, whose second is random always."""
        split, limit = self.split, self.sequence_length - _SPECIALS
        target = np.minimum(np.searchsorted(self._targets, draw.uniform(0), side="right"), limit)
        start = split.sentence_starts(anchors)
        document = split.document_at(start)
        stop = np.minimum(start + target, split.document_ends(document) - 1)
        last = split.sentence_at(stop - 1)
        number = last - anchors + 1
        cut = np.where(number > 1, 1 + draw.below(2, np.maximum(number - 1, 1)), 1)
        cut_at = split.sentence_ends(anchors + cut - 1)
        random = (number == 1) | (draw.uniform(3) < self.config.random_share)
        begin, end = self._random_second(document, np.maximum(target - (cut_at - start), 1), draw)
        begin = np.where(random, begin, cut_at)
        end = np.where(random, end, split.sentence_ends(last))
        return (start, cut_at - start), (begin, end - begin), random, number == 1

    def _random_second(self, document: np.ndarray, need: np.ndarray, draw: "_Draws"):
        """Sentences of another document, from a random one on, until `need` tokens: start, end."""
        split = self.split
        other = draw.below(4, split.num_documents - 1)
        other += other >= document
        start, content_end = split.document_starts(other), split.document_ends(other) - 1
        first, last = split.sentence_at(np.stack([start, content_end - 1]))
        chosen = first + draw.below(5, last - first + 1)
        begin = np.where(chosen > first, split.sentence_ends(np.maximum(chosen - 1, 0)), start)
        stop = np.minimum(begin + need, content_end)
        return begin, split.sentence_ends(split.sentence_at(stop - 1))

    def _assemble(self, first, second) -> Batch:
        """Lays out `[CLS] A [SEP] B [SEP]` and padding, [B, T]."""
        (start_a, size_a), (start_b, size_b) = first, second
        rows, length = len(size_a), self.sequence_length
        starts = np.stack([start_a, start_b], 1).ravel()
        sizes = np.stack([size_a, size_b], 1).ravel()
        row = np.arange(rows)
        places = np.stack([row * length + 1, row * length + size_a + 2], 1).ravel()
        made = laid_out(self.split, (rows, length), places, starts, sizes, self.pad_id)
        tokens = made["tokens"]
        tokens[:, 0] = self._cls
        tokens[row, size_a + 1] = tokens[row, size_a + size_b + 2] = self._sep
        column = np.arange(length, dtype=np.int32)
        real = column < (size_a + size_b + _SPECIALS)[:, None]
        return {
            **made,
            "segment_ids": real.astype(np.int32),
            "positions": column * real,
            "token_types": (real & (column >= (size_a + 2)[:, None])).astype(np.int32),
        }


def target_distribution(config: Pairs, lengths: np.ndarray, limit: int) -> np.ndarray:
    """Cumulative probability of a row's target being 0, 1, ..., `limit` tokens: [limit + 1].

    A walk with target t takes whole sentences until they reach t, and uses them up, but only the
    first text, half of them on average, where the second is random. The rows it makes of a token
    are the inverse of what it uses up.

    Args:
      lengths: of sentences, in tokens, as the split has them.
    """
    share = np.bincount(np.minimum(lengths, limit)) / len(lengths)
    mean_from = np.array([lengths[lengths >= t].sum() / len(lengths) for t in range(limit + 1)])
    chunk = np.zeros(limit + 1)
    """Expected tokens of the sentences taken for each target."""
    for t in range(1, limit + 1):
        shorter = np.arange(1, min(t, len(share)))
        chunk[t] = mean_from[t] + (share[shorter] * (shorter + chunk[t - shorter])).sum()
    longer_chunks = chunk - mean_from
    used = mean_from + longer_chunks * (1 - config.random_share / 2)
    weights = np.zeros(limit + 1)
    weights[2:] = config.short_probability / max(1, limit - 1)
    weights[limit] += 1 - config.short_probability
    weights[2:] /= used[2:]
    return np.cumsum(weights) / weights.sum()


def _some_lengths(split: Split, most: int = 4096) -> np.ndarray:
    """Lengths of sentences spread evenly over the split, in tokens."""
    chosen = np.linspace(0, split.num_sentences - 1, min(most, split.num_sentences))
    chosen = np.unique(chosen.astype(np.int64))
    return split.sentence_ends(chosen) - split.sentence_starts(chosen)


class _Draws:
    """Random numbers of each row, one stream for each purpose (`stream`)."""

    def __init__(self, key: np.uint64, indices: np.ndarray):
        self._key, self._indices = key, indices

    def uniform(self, stream: int) -> np.ndarray:
        return counter.uniform(counter.bits(self._key, self._indices, stream))

    def below(self, stream: int, bounds: np.ndarray | int) -> np.ndarray:
        return counter.below(counter.bits(self._key, self._indices, stream), bounds)

    def words(self, stream: int, rows: np.ndarray, word: np.ndarray) -> np.ndarray:
        """The given words of these rows' streams, which may be as long as one likes."""
        return counter.bits(self._key, self._indices[rows], stream, word)


def _swapped(first, second, where: np.ndarray):
    """Both texts, (starts, lengths), changed round in some rows."""
    pairs = list(zip(first, second))
    return tuple(np.where(where, b, a) for a, b in pairs), tuple(
        np.where(where, a, b) for a, b in pairs
    )


def _truncate(first, second, limit: int, draw: _Draws):
    """Cuts both texts, (starts, lengths), so that they hold `limit` tokens together.

    The closed form of popping one token at a time off the longer (off the second where they are
    equal): the shorter stays whole if it fits beside an at least as long rest, else both end at
    half, the first with the odd token. Each popped token comes off the front or the back by a
    coin, so a text that loses n starts Binomial(n, 1/2) later.
    """
    (start_a, size_a), (start_b, size_b) = first, second
    over = size_a + size_b > limit
    half_a, half_b = limit - limit // 2, limit // 2
    keep_a = np.where(over, np.minimum(size_a, np.maximum(half_a, limit - size_b)), size_a)
    keep_b = np.where(over, np.minimum(size_b, np.maximum(half_b, limit - size_a)), size_b)
    front_a = _heads(draw, 6, size_a - keep_a)
    front_b = _heads(draw, 7, size_b - keep_b)
    return (start_a + front_a, keep_a), (start_b + front_b, keep_b)


def _heads(draw: _Draws, stream: int, flips: np.ndarray) -> np.ndarray:
    """Heads among `flips` fair coins for each row: the set bits of as many random bits."""
    words = -(-flips // 64)
    rows = np.repeat(np.arange(len(flips)), words)
    word = ragged_arange(np.zeros_like(words), words)
    wanted = np.minimum(flips[rows] - 64 * word, 64)
    mask = np.uint64((1 << 64) - 1) >> (64 - wanted).astype(np.uint64)
    heads = np.bitwise_count(draw.words(stream, rows, word) & mask)
    return np.bincount(rows, weights=heads, minlength=len(flips)).astype(np.int64)


def _check(split: Split, sequence_length: int) -> None:
    if split.num_documents < 2:
        raise UserError(
            "sentence pairs need a second document to draw random seconds from",
            where=split.directory,
            expected="at least 2 documents",
            got=f"{split.num_documents}",
            fix="prepare more text for this split, or set rows.name=windows",
        )
    if split.num_sentences == split.num_documents:
        raise UserError(
            "no document has two sentences: there is no pair of texts that belong together",
            where=split.directory,
            expected="sentence ends inside of documents",
            got=f"{split.num_documents:,} documents of one sentence",
            fix="prepare the text in another `out` with sentences=rule or sentences=line, and with "
            "longer documents (source.documents=file), or set rows.name=windows",
        )
    if sequence_length < _SPECIALS + 2:
        raise UserError(
            "rows are too short for a sentence pair",
            where="data.sequence_length",
            expected=f"at least {_SPECIALS + 2}: [CLS], [SEP], [SEP] and two tokens",
            got=sequence_length,
        )


def _roles(special_ids: Mapping[str, int | None]) -> tuple[int, int]:
    """Ids of [CLS] and [SEP]."""
    cls, sep = special_ids.get("cls"), special_ids.get("sep")
    if cls is None or sep is None:
        missing = [role for role, id in (("cls", cls), ("sep", sep)) if id is None]
        raise UserError(
            "sentence pairs need special tokens that the tokenizer lacks",
            where="tokenizer",
            expected="tokens for the roles cls and sep",
            got=f"none for {' and '.join(missing)}",
            fix="use a WordPiece tokenizer (`jaxssl tokenizer`), or set rows.name=windows",
        )
    return cls, sep
