"""The last step of the prepare pipeline: documents in, one shard of each split out."""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from jaxssl.core.files import atomic_write, fsync_directory
from jaxssl.data.corpus.gazetteer import Gazetteer, GazetteerConfig, read_gazetteer
from jaxssl.data.corpus.marks import beside, token_marks
from jaxssl.data.corpus.readers import skipped_file
from jaxssl.data.corpus.sentences import split_lines, split_sentences
from jaxssl.data.corpus.skipped import SkippedDocuments
from jaxssl.data.store.manifest import token_dtype
from jaxssl.data.store.store import ShardWriter
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer

BATCH_DOCUMENTS = 1000
BATCH_CHARACTERS = 1 << 20
SPLITS = ("train", "validation", "test")


def as_one_sentence(text: str) -> list[str]:
    return [text]


SENTENCES = {"rule": split_sentences, "line": split_lines, "none": as_one_sentence}


class Work(NamedTuple):
    """Where the tasks of an unfinished store keep their things: a folder inside the store."""

    path: Path

    def record(self, rank: int) -> Path:
        """What task `rank` wrote; is there when the task is done."""
        return self.path / "records" / f"{rank:05d}.json"

    def counts(self, rank: int) -> Path:
        """How often task `rank` wrote each id, for each split."""
        return self.path / "counts" / f"{rank:05d}.npz"

    def progress(self, rank: int) -> Path:
        """A file with the number of bytes of text that task `rank` has written so far."""
        return self.path / "progress" / f"{rank:05d}"

    @property
    def skipped(self) -> Path:
        return self.path / "set_aside"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer"

    @property
    def gazetteer(self) -> Path:
        return self.path / "gazetteer.txt"

    @property
    def logs(self) -> Path:
        return self.path / "logs"


def choose_split(seed: int, group: str, fractions: dict[str, float]) -> str:
    """The split of a document: by a hash of (seed, group), so that a group stays together."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    for name in ("validation", "test"):
        if share < fractions.get(name, 0.0):
            return name
        share -= fractions.get(name, 0.0)
    return "train"


@functools.lru_cache(maxsize=1)
def _tokenizer(path: Path, files: tuple[tuple[str, int], ...]) -> Tokenizer:
    """The tokenizer of all tasks of a process: to load it takes as long as encoding megabytes.

    Args:
      files: their names and times, so that files which were written anew are read anew.
    """
    del files
    return load_tokenizer(path)


@functools.lru_cache(maxsize=1)
def _gazetteer(config: GazetteerConfig, time: int) -> Gazetteer:
    """The phrases of all tasks of a process; `time` is the file's, as with the tokenizer."""
    del time
    return read_gazetteer(config)


class _Part(NamedTuple):
    """A document, or a part of it, encoded; `found` of its spans are the gazetteer's."""

    tokens: np.ndarray
    sentence_ends: np.ndarray
    marks: np.ndarray | None = None
    found: int = 0


class StoreWriter(PipelineStep):
    """Encodes documents and writes shard `rank` of each split of a token store.

    A task works in a folder of its own, moves its files to their places when all are complete, and
    writes its record last: a task without a record has to be done again, and gives the same bytes.

    Args:
      out: the store's directory.
      work: the unfinished store's work folder.
      seed: of the choice of splits.
      fractions: share of "validation" and "test".
      sentences: how text is cut into sentences, a key of `SENTENCES`.
      marks: whether the store has marked spans.
      gazetteer: phrases that are marked.
    """

    type = "💽 - WRITER"
    name = "token store"

    def __init__(
        self,
        out: str | Path,
        work: Work,
        seed: int,
        fractions: dict[str, float],
        sentences: Literal["rule", "line", "none"],
        marks: bool = False,
        gazetteer: GazetteerConfig | None = None,
    ):
        super().__init__()
        self.marks, self.gazetteer = marks, gazetteer
        self.out, self.work, self.seed = Path(out), work, seed
        self.fractions, self.sentences = fractions, sentences

    def run(self, data, rank: int = 0, world_size: int = 1):
        """Writes all documents in `data`; yields nothing."""
        if not self.work.record(rank).is_file():
            self._open(rank)
            try:
                with self._skipped:
                    for batch in _batches(data):
                        self._write(batch)
                        self._report(rank)
                self._finish(rank)
            finally:
                shutil.rmtree(self._folder, ignore_errors=True)
        yield from ()

    def _open(self, rank: int) -> None:
        """Starts from nothing: what a killed task left is removed."""
        for stale in self.work.path.glob(f"task-{rank:05d}-*"):
            shutil.rmtree(stale, ignore_errors=True)
        self._folder = self.work.path / f"task-{rank:05d}-{os.getpid()}"
        files = sorted(self.work.tokenizer.iterdir())
        self._tokenizer = _tokenizer(
            self.work.tokenizer, tuple((f.name, f.stat().st_mtime_ns) for f in files)
        )
        dtype, end = token_dtype(self._tokenizer.vocab_size), self._tokenizer.document_end
        self._writers = {
            name: ShardWriter(self._folder / name, f"{rank:05d}", dtype, end, self.marks)
            for name in SPLITS
        }
        self._phrases = None
        if self.gazetteer is not None:
            time = Path(self.gazetteer.path).stat().st_mtime_ns
            self._phrases = _gazetteer(self.gazetteer, time)
        self._skipped = SkippedDocuments(skipped_file(self.work.skipped / "encoding", rank))
        self._parts: list[_Part] = []
        self._size = self._done = 0

    def _write(self, batch: list[Document]) -> None:
        """Encodes documents and appends them; the parts of one document are joined."""
        for document, part in zip(batch, self._encoded(batch)):
            self._parts.append(part)
            self._size += len(document.text.encode())
            if not document.metadata.get("more"):
                self._append(document)

    def _encoded(self, batch: list[Document]) -> Iterator[_Part]:
        """Each document's tokens and sentences, and marks if the store has them."""
        cut = SENTENCES[self.sentences]
        texts = [cut(document.text) for document in batch]
        if not self.marks:
            yield from (_Part(*found) for found in self._tokenizer.encode_documents(texts))
            return
        encoded = self._tokenizer.encode_documents_with_offsets(texts)
        for document, (tokens, ends, offsets) in zip(batch, encoded):
            spans = document.metadata.get("spans", [])
            found = self._phrases.find(document.text) if self._phrases is not None else []
            found = beside(spans, found) if spans else found
            marks = token_marks(offsets, sorted([*spans, *found]))
            yield _Part(tokens, ends, marks, len(found))

    def _append(self, document: Document) -> None:
        """Appends the document whose last part was encoded."""
        whole = self._parts[0] if len(self._parts) == 1 else _join(self._parts)
        if len(whole.tokens):
            group = str(document.metadata.get("group", document.id))
            split = choose_split(self.seed, group, self.fractions)
            self._writers[split].append(
                whole.tokens, whole.sentence_ends, self._size, whole.marks, whole.found
            )
            self.stat_update("documents", split)
        else:
            self._skipped.add(document.id, None, "the tokenizer makes no token of the text")
        self._done += self._size
        self._parts, self._size = [], 0

    def _report(self, rank: int) -> None:
        path = self.work.progress(rank)
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(self._done + self._size))

    def _finish(self, rank: int) -> None:
        """Moves the shards to their places; the record comes last."""
        records, counts = {}, {}
        for split, writer in self._writers.items():
            if (record := writer.finish()) is None:
                continue
            folder = self.out / split
            folder.mkdir(exist_ok=True)
            for kind in writer.kinds:
                name = f"{writer.name}.{kind}"
                os.replace(self._folder / split / name, folder / name)
            fsync_directory(folder)
            records[split], counts[split] = record, writer.counts
        with atomic_write(self.work.counts(rank), "wb") as file:
            np.savez(file, **counts)
        with atomic_write(self.work.record(rank)) as file:
            json.dump(records, file)


def _join(parts: list[_Part]) -> _Part:
    """A document that was encoded in parts; phrases across their ends are not found."""
    starts = np.cumsum([0, *(len(part.tokens) for part in parts)])
    marks = [part.marks for part in parts if part.marks is not None]
    return _Part(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.sentence_ends + start for part, start in zip(parts, starts)]),
        np.concatenate(marks) if marks else None,
        sum(part.found for part in parts),
    )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in batches of bounded text."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
