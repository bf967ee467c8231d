"""Rows that hold one text each: a document, or a sentence."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.store.manifest import Manifest
from jaxssl.data.store.rows import Batch, identity, laid_out, pad_id
from jaxssl.data.store.split import Split

_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Documents:
    """Rows are one text each, which loses what does not fit at its end: for vectors of texts."""

    name: Literal["documents"] = "documents"
    """Kind of rows: one text each."""
    unit: Literal["document", "sentence"] = "document"
    """What a text is."""

    def open(
        self,
        split: Split,
        sequence_length: int,
        seed: int = 0,
        special_ids: Mapping[str, int | None] | None = None,
    ) -> "DocumentRows":
        """Opens the split's rows of `sequence_length` tokens; the seed is not used."""
        return DocumentRows(self, split, sequence_length, special_ids or {})


def check_sentences(manifest: Manifest, path: Path) -> None:
    """Refuses a store that knows of no sentence: its documents would be taken for sentences.

    Raises:
      UserError: no document of any split has two.
    """
    splits = manifest.splits.values()
    if any(split.sentences > split.documents for split in splits):
        return
    documents = sum(split.documents for split in splits)
    raise UserError(
        "no document has two sentences, so rows of sentences are rows of documents",
        where=path,
        expected="sentence ends inside of documents, for rows.unit=sentence",
        got=f"{documents:,} documents of one sentence",
        fix="set rows.unit=document, or prepare the text in another `out` with sentences=rule or "
        "sentences=line",
    )


class DocumentRows:
    """Row i is text i of the split: `[CLS] text [SEP]` where the tokenizer has both, else the text,
    a document with the token that ends it.

    `tokens_left_over` are those that do not fit.
    """

    def __init__(
        self,
        config: Documents,
        split: Split,
        sequence_length: int,
        special_ids: Mapping[str, int | None],
    ):
        self.config, self.split = config, split
        self.sequence_length, self.pad_id = sequence_length, pad_id(special_ids)
        frame = [special_ids.get("cls"), special_ids.get("sep")]
        self._frame = [id_ for id_ in frame if id_ is not None] if None not in frame else []
        self._is_document = config.unit == "document"
        self.num_rows = split.num_documents if self._is_document else split.num_sentences
        self._room = sequence_length - len(self._frame)
        self._check()
        self.tokens_left_over = sum(
            int(np.maximum(sizes - self._room, 0).sum()) for _, sizes in self._all_texts()
        )

    def rows(self, indices: np.ndarray, epoch: int) -> Batch:
        """See `RowSource.rows`; every epoch has the same rows."""
        indices, length = np.asarray(indices, np.int64), self.sequence_length
        starts, sizes = self._texts(indices)
        sizes = np.minimum(sizes, self._room)
        before = len(self._frame) // 2
        places = np.arange(len(indices)) * length + before
        made = laid_out(self.split, (len(indices), length), places, starts, sizes, self.pad_id)
        tokens = made["tokens"]
        if self._frame:
            tokens[:, 0] = self._frame[0]
            tokens[np.arange(len(indices)), sizes + 1] = self._frame[1]
        column = np.arange(length, dtype=np.int32)
        real = column < (sizes + len(self._frame))[:, None]
        return {
            **made,
            "segment_ids": real.astype(np.int32),
            "positions": column * real,
            **identity(indices, epoch),
        }

    def _texts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where texts start, and their lengths in tokens."""
        split = self.split
        if not self._is_document:
            starts = split.sentence_starts(indices)
            return starts, split.sentence_ends(indices) - starts
        starts = split.document_starts(indices)
        return starts, split.document_ends(indices) - starts - bool(self._frame)

    def _all_texts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, self.num_rows, _AT_ONCE):
            yield self._texts(np.arange(start, min(start + _AT_ONCE, self.num_rows)))

    def _check(self) -> None:
        if self._room < 1:
            raise UserError(
                "rows are too short for a text",
                where="data.sequence_length",
                expected=f"more than {len(self._frame)}, which are special tokens",
                got=self.sequence_length,
            )
        if not self.num_rows:
            raise UserError(
                f"the split has no {self.config.unit}",
                where=self.split.directory,
                expected="one at least",
                got="0",
            )
