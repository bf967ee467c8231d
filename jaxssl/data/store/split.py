"""Reading one split of a token store: tokens, documents and sentences by position.

Positions and indices are int64 and global: they count over the split's shards in order. Every
function is vectorised; nothing is kept in memory but the cumulative counts of the shards.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.ragged import ragged_arange
from jaxssl.data.store.manifest import FILE_KINDS, MARKS, ShardRecord, SplitRecord

Selection = slice | np.ndarray
RESULTS = {"tokens": np.int32, MARKS: np.uint8}
"""What tokens and their marks are read as."""


def file_dtype(kind: str, token_dtype: str) -> np.dtype:
    """The little-endian type of one entry of a `.tokens`, `.marks`, `.documents` or `.sentences`
    file."""
    if kind == MARKS:
        return np.dtype("uint8")
    return np.dtype(token_dtype if kind == "tokens" else "int64").newbyteorder("<")


def entries(shard: ShardRecord, kind: str) -> int:
    """How many entries one file of a shard has: of marks, one for each token."""
    return shard.tokens if kind == MARKS else getattr(shard, kind)


class Split:
    """One split of an open store (`TokenStore.split`)."""

    def __init__(
        self,
        directory: Path,
        record: SplitRecord,
        dtype: str,
        vocab_size: int,
        gives_marks: bool = False,
    ):
        self.directory, self.record, self.gives_marks = directory, record, gives_marks
        self.compares_whole = False
        """Whether what lies beside the shards is compared whole when it is read."""
        self._dtype, self._vocab_size = dtype, vocab_size
        self._bases = {
            kind: np.cumsum([0] + [entries(shard, kind) for shard in record.shards], dtype=np.int64)
            for kind in (*FILE_KINDS, MARKS)
        }
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens, document ends included."""
        return self.record.tokens

    @property
    def num_documents(self) -> int:
        return self.record.documents

    @property
    def num_sentences(self) -> int:
        return self.record.sentences

    def tokens(self, positions: np.ndarray, kind: str = "tokens") -> np.ndarray:
        """The tokens at `positions` (any shape), as int32 of the same shape; or their marks."""
        positions = np.asarray(positions, np.int64)
        flat = positions.ravel()
        self._check_range("tokens", flat, flat)
        result = np.empty(flat.size, RESULTS[kind])
        for shard, chosen in self._by_shard("tokens", flat):
            local = flat[chosen] - self._bases["tokens"][shard]
            result[chosen] = self._array(kind, shard)[local]
        return self._checked(result, kind).reshape(positions.shape)

    def windows(self, starts: np.ndarray, length: int, kind: str = "tokens") -> np.ndarray:
        """Tokens [start, start + length) for each start, [B, length] int32. May cross shards.

        Args:
          kind: "tokens", or "marks" for theirs, uint8.
        """
        starts = np.asarray(starts, np.int64)
        self._check_range("tokens", starts, starts + (length - 1))
        result = np.empty((starts.size, length), RESULTS[kind])
        base = self._bases["tokens"]
        for shard, chosen in self._by_shard("tokens", starts):
            local = starts[chosen] - base[shard]
            if local.max() + length <= base[shard + 1] - base[shard]:
                result[chosen] = self._sliding(shard, length, kind)[local]
            else:
                result[chosen] = self.tokens(starts[chosen, None] + np.arange(length), kind)
        return self._checked(result, kind)

    def ranges(self, starts: np.ndarray, lengths: np.ndarray, kind: str = "tokens") -> np.ndarray:
        """Tokens of [start, start + length) one after another, [sum of lengths] int32.

        Each range lies within one document (so within one shard); lengths may be 0.

        Args:
          kind: "tokens", or "marks" for theirs, uint8.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        starts = np.where(lengths > 0, starts, 0)
        self._check_range("tokens", starts, starts + np.maximum(lengths - 1, 0))
        if len(self.record.shards) == 1:
            found = self._array(kind, 0)[ragged_arange(starts, lengths)]
            return self._checked(found.astype(RESULTS[kind]), kind)
        ends = np.cumsum(lengths)
        result = np.empty(int(ends[-1]) if ends.size else 0, RESULTS[kind])
        for shard, chosen in self._by_shard("tokens", starts):
            size = lengths[chosen]
            source = ragged_arange(starts[chosen] - self._bases["tokens"][shard], size)
            target = ragged_arange(ends[chosen] - size, size)
            result[target] = self._array(kind, shard)[source]
        return self._checked(result, kind)

    def document_ends(self, indices: np.ndarray) -> np.ndarray:
        """Exclusive ends of documents, their document-end token included."""
        return self._ends("documents", indices)

    def document_starts(self, indices: np.ndarray) -> np.ndarray:
        """Positions of documents' first tokens: documents tile the split."""
        indices = np.asarray(indices, np.int64)
        return np.where(indices > 0, self.document_ends(np.maximum(indices - 1, 0)), 0)

    def sentence_ends(self, indices: np.ndarray) -> np.ndarray:
        """Exclusive ends of sentences."""
        return self._ends("sentences", indices)

    def sentence_starts(self, indices: np.ndarray) -> np.ndarray:
        """Positions of sentences' first tokens."""
        indices = np.asarray(indices, np.int64)
        previous = np.where(indices > 0, self.sentence_ends(np.maximum(indices - 1, 0)), 0)
        # A document's last sentence ends at its document-end token, which belongs to no sentence.
        return previous + (self.document_ends(self.document_at(previous)) == previous + 1)

    def document_at(self, positions: np.ndarray) -> np.ndarray:
        """Index of the document that holds each token (its document-end token included)."""
        return self._holder("documents", positions)

    def sentence_at(self, positions: np.ndarray) -> np.ndarray:
        """Index of the sentence that holds each token; of a document end, the one after it."""
        return self._holder("sentences", positions)

    def ends_within(
        self, kind: str, starts: np.ndarray, stops: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends of documents or sentences strictly between start and stop, for each pair.

        Args:
          kind: "documents" or "sentences".
          starts: [B], each in [0, num_tokens).
          stops: [B], each in (start, num_tokens].

        Returns:
          (row, end): which pair each end belongs to and its position, both [found].
        """
        low, high = self._holder(kind, np.stack([starts, stops - 1]))
        count = high - low
        return np.repeat(np.arange(len(count)), count), self._ends(kind, ragged_arange(low, count))

    def shard_document_ends(self, shard: int) -> np.ndarray:
        """The shard's start and the ends of its documents, [documents + 1], in memory."""
        ends = np.concatenate([[0], self._array("documents", shard)])
        return ends.astype(np.int64) + self._bases["tokens"][shard]

    def _checked(self, tokens: np.ndarray, kind: str) -> np.ndarray:
        """Int32 tokens as they are, all in the vocabulary: nothing after this would notice. Marks
        of any value do no harm."""
        if kind == MARKS:
            return tokens
        largest = int(tokens.view(np.uint32).max(initial=0))  # what is negative is huge
        if largest >= self._vocab_size:
            store = self.directory.parent
            raise UserError(
                "a shard holds a token that the vocabulary does not have: it was altered",
                where=self.directory,
                expected=f"ids below {self._vocab_size}",
                got=largest,
                fix=f"find the shard with `jaxssl inspect {store} --verify` and copy it again, or "
                "delete the store and run `jaxssl prepare` again",
            )
        return tokens

    def _array(self, kind: str, shard: int) -> np.ndarray:
        """One file of one shard, mapped on first use."""
        found = self._maps.get((kind, shard))
        if found is None:
            path = self.directory / f"{self.record.shards[shard].name}.{kind}"
            dtype = file_dtype(kind, self._dtype)
            empty = not entries(self.record.shards[shard], kind)
            found = np.zeros(0, dtype) if empty else np.asarray(np.memmap(path, dtype, "r"))
            self._maps[kind, shard] = found
        return found

    def _sliding(self, shard: int, length: int, kind: str) -> np.ndarray:
        """Every window of a shard as a row of a view, [tokens - length + 1, length]."""
        found = self._maps.get((f"sliding {kind}", shard))
        if found is None or found.shape[1] != length:
            found = np.lib.stride_tricks.sliding_window_view(self._array(kind, shard), length)
            self._maps[f"sliding {kind}", shard] = found
        return found

    def _by_shard(self, kind: str, values: np.ndarray) -> Iterator[tuple[int, Selection]]:
        """Groups values (1-D, in range) by the shard that holds them: (shard, which of them)."""
        if not values.size:
            return
        if len(self.record.shards) == 1:
            yield 0, slice(None)
            return
        # Sorted, so that shards are runs of it (and searches in a shard keep to warm memory).
        order = np.argsort(values)
        cuts = np.searchsorted(values[order], self._bases[kind]).tolist()
        for shard, (start, stop) in enumerate(zip(cuts, cuts[1:])):
            if start < stop:
                yield shard, order[start:stop]

    def _check_range(self, kind: str, low: np.ndarray, high: np.ndarray) -> None:
        size = self._bases[kind][-1]
        if low.size and (int(low.min()) < 0 or int(high.max()) >= size):
            raise IndexError(f"{kind} {low.min()}..{high.max()} of a split that has {size}")

    def _ends(self, kind: str, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices, np.int64)
        flat = indices.ravel()
        self._check_range(kind, flat, flat)
        result = np.empty(flat.size, np.int64)
        for shard, chosen in self._by_shard(kind, flat):
            ends = self._array(kind, shard)[flat[chosen] - self._bases[kind][shard]]
            result[chosen] = ends + self._bases["tokens"][shard]
        return result.reshape(indices.shape)

    def _holder(self, kind: str, positions: np.ndarray) -> np.ndarray:
        """How many ends of a kind lie at or before each token: the index of its holder."""
        positions = np.asarray(positions, np.int64)
        flat = positions.ravel()
        self._check_range("tokens", flat, flat)
        result = np.empty(flat.size, np.int64)
        for shard, chosen in self._by_shard("tokens", flat):
            local = flat[chosen] - self._bases["tokens"][shard]
            found = self._array(kind, shard).searchsorted(local, side="right")
            result[chosen] = found + self._bases[kind][shard]
        return result.reshape(positions.shape)
