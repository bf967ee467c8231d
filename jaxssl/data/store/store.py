"""The token store on disk: writing one shard, opening and checking the whole.

A store is a directory: `manifest.json`, `tokenizer/`, and a folder for each split with shards of
three flat little-endian files. `.tokens` (uint16 or uint32) holds each document's content followed
by one document-end token; `.documents` and `.sentences` (int64) hold exclusive end offsets into
it. A document's end counts its document-end token, its last sentence's end does not. A store whose
manifest has `marks` has a fourth, `.marks` (uint8), with one entry for each token: 1 begins a
marked span, 2 goes on with it, 0 lies in none.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import fsync_directory, sample_sha256, sha256
from jaxssl.core.progress import bar
from jaxssl.core.seal import check_seal
from jaxssl.data.store.manifest import (
    FILE_KINDS,
    MANIFEST,
    MARKED,
    MARKS,
    Manifest,
    read_manifest,
)
from jaxssl.data.store.split import Split, entries, file_dtype
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.data.tokenizer.tokenizer import Tokenizer

FLUSH_TOKENS = 1 << 20
SMALL_BYTES = 1 << 30
"""A store of at most so many bytes is compared whole: that takes a second."""
THREADS = 16


class ShardWriter:
    """Writes one shard, document by document, with bounded memory.

    Nothing appears under the shard's names before `finish()`; a writer that was killed leaves
    hidden temporary files which the next writer of the same shard overwrites.

    Args:
      directory: the split's folder, made when the first document comes.
      name: the shard's name, "00000".
      dtype: of a token, "uint16" or "uint32".
      document_end: the id that is written after each document.
      marks: whether documents come with marked spans.
    """

    def __init__(
        self, directory: str | Path, name: str, dtype: str, document_end: int, marks: bool = False
    ):
        self.directory, self.name, self.document_end = Path(directory), name, document_end
        self.counts = np.zeros(0, np.int64)
        """How often each id was written as content, [largest id + 1]."""
        self.kinds = (*FILE_KINDS, MARKS) if marks else FILE_KINDS
        self._dtypes = {kind: file_dtype(kind, dtype) for kind in self.kinds}
        self._limit = int(np.iinfo(self._dtypes["tokens"]).max)
        self._files: dict[str, Any] = {}
        self._hashes = {kind: hashlib.sha256() for kind in self.kinds}
        self._buffers: dict[str, list[np.ndarray]] = {kind: [] for kind in self.kinds}
        self._totals = {"tokens": 0, "documents": 0, "sentences": 0, "bytes": 0}
        self._totals |= dict.fromkeys(MARKED, 0) if marks else {}
        self._buffered = 0

    def append(
        self,
        tokens: np.ndarray,
        sentence_ends: np.ndarray,
        text_bytes: int,
        marks: np.ndarray | None = None,
        found: int = 0,
    ) -> None:
        """Adds one document.

        Args:
          tokens: its content's ids, [n], n >= 1, without a document-end token (added here).
          sentence_ends: exclusive ends of its sentences in `tokens`, strictly increasing, the
            last one equal to n.
          text_bytes: size of its text in UTF-8.
          marks: of a shard with marks, uint8 [n]: 1 begins a marked span, 2 goes on with it.
          found: how many of these spans a gazetteer found.
        """
        tokens, ends = np.asarray(tokens), np.asarray(sentence_ends, np.int64)
        _check_document(tokens, ends, self._limit)
        start = self._totals["tokens"]
        stored = np.empty(tokens.size + 1, self._dtypes["tokens"])
        stored[:-1], stored[-1] = tokens, self.document_end
        self._buffers["tokens"].append(stored)
        self._buffers["sentences"].append(start + ends)
        self._buffers["documents"].append(np.array([start + stored.size], np.int64))
        self._totals["tokens"] += stored.size
        self._totals["documents"] += 1
        self._totals["sentences"] += ends.size
        self._totals["bytes"] += int(text_bytes)
        if marks is not None:
            self._buffers[MARKS].append(np.append(marks, np.uint8(0)))
            self._totals["spans"] += int((marks == 1).sum())
            self._totals["found"] += found
            self._totals["marked"] += int((marks > 0).sum())
        self._buffered += stored.size
        if self._buffered >= FLUSH_TOKENS:
            self._flush()

    def finish(self) -> dict[str, Any] | None:
        """Makes the files durable under their names and returns the shard's record.

        The record is a `ShardRecord` as plain values. A writer that was given no document writes
        nothing and returns None.
        """
        self._flush()
        if not self._files:
            return None
        for kind, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(self._temporary(kind), self.directory / f"{self.name}.{kind}")
        fsync_directory(self.directory)
        self._files = {}
        return {
            "name": self.name,
            **self._totals,
            "largest_id": max(self.counts.size - 1, self.document_end),
            "sha256": {kind: digest.hexdigest() for kind, digest in self._hashes.items()},
            "sample": {
                kind: sample_sha256(self.directory / f"{self.name}.{kind}") for kind in self.kinds
            },
        }

    def abort(self) -> None:
        """Throws away what was written. Safe to call at any time, also after `finish()`."""
        for kind, file in self._files.items():
            file.close()
            self._temporary(kind).unlink(missing_ok=True)
        self._files = {}

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _temporary(self, kind: str) -> Path:
        return self.directory / f".{self.name}.{kind}.tmp"

    def _flush(self) -> None:
        if not self._buffered:
            return
        if not self._files:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._files = {kind: open(self._temporary(kind), "wb") for kind in self.kinds}
        self._count()
        for kind, buffer in self._buffers.items():
            data = np.concatenate(buffer).astype(self._dtypes[kind], copy=False).tobytes()
            self._files[kind].write(data)
            self._hashes[kind].update(data)
            buffer.clear()
        self._buffered = 0

    def _count(self) -> None:
        content = np.concatenate([stored[:-1] for stored in self._buffers["tokens"]])
        counts = np.bincount(content, minlength=self.counts.size)
        counts[: self.counts.size] += self.counts
        self.counts = counts


def _check_document(tokens: np.ndarray, sentence_ends: np.ndarray, limit: int) -> None:
    if tokens.ndim != 1 or not tokens.size:
        raise ValueError(f"a document needs a non-empty row of tokens, got shape {tokens.shape}")
    if not sentence_ends.size or sentence_ends[-1] != tokens.size:
        raise ValueError("the last sentence must end where the document's tokens end")
    if sentence_ends[0] < 1 or (sentence_ends[1:] <= sentence_ends[:-1]).any():
        raise ValueError("sentence ends must increase strictly: no sentence may be empty")
    if int(tokens.min()) < 0 or int(tokens.max()) > limit:
        raise ValueError(f"token ids must be in [0, {limit}], got {tokens.min()}..{tokens.max()}")


class TokenStore:
    """A token store that was opened and whose files have the sizes its manifest states."""

    def __init__(self, path: Path, manifest: Manifest):
        self.path, self.manifest = path, manifest
        self.compares_whole = False
        """Whether files are compared byte by byte, not by a sample."""

    @classmethod
    def open(cls, path: str | Path, *, verify: bool | None = False) -> "TokenStore":
        """Opens the store at `path` in O(1) memory: files are mapped when first read.

        The manifest and the tokenizer are compared with the store's seal, and every shard with a
        sample (64 KiB of each file).

        Args:
          path: the store's directory.
          verify: compare all bytes with the manifest instead; None is for those of at most 1 GiB.

        Raises:
          UserError: no store there, a newer format, a missing, truncated or altered file.
        """
        path = Path(path)
        check_seal(path)
        store = cls(path, read_manifest(path / MANIFEST))
        store._check_sizes()
        small = sum(file.size for file in store._shard_files()) <= SMALL_BYTES
        store.compares_whole = small if verify is None else verify
        store._check_sums()
        return store

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def document_end(self) -> int:
        return self.manifest.document_end

    @property
    def special_ids(self) -> dict[str, int | None]:
        return dict(self.manifest.special_ids)

    def split(self, name: str, marks: bool = False) -> Split:
        """The split called `name`; a `UserError` lists those there are.

        Args:
          marks: its rows hand on which tokens lie in marked spans; a store without is refused.
        """
        if name not in self.manifest.splits:
            raise UserError(
                f"the token store has no split {name!r}",
                where=self.path,
                expected=" or ".join(sorted(self.manifest.splits)) or "a store with documents",
                got=name,
                fix=did_you_mean(name, self.manifest.splits)
                or f"prepare the text in another `out` with a larger {name}_fraction",
            )
        m = self.manifest
        if marks and m.marks is None:
            raise UserError(
                "the token store has no marked spans",
                where=self.path,
                expected="a store with marks, which the objective's units prefer",
                got="a store without",
                fix="prepare the text in another `out` with `jaxssl prepare ... "
                "gazetteer.path=FILE` (a phrase a line) or `source.spans_key=KEY` (offsets of "
                "your own), or choose other units",
            )
        split = Split(self.path / name, m.splits[name], m.dtype, m.vocab_size, marks)
        split.compares_whole = self.compares_whole
        return split

    def _shard_files(self) -> list["_ShardFile"]:
        return [
            _ShardFile(
                self.path / name / f"{shard.name}.{kind}",
                entries(shard, kind) * file_dtype(kind, self.manifest.dtype).itemsize,
                shard.sha256[kind],
                shard.sample.get(kind),
            )
            for name, split in self.manifest.splits.items()
            for shard in split.shards
            for kind in self.manifest.file_kinds
        ]

    def _check_sizes(self) -> None:
        for file in self._shard_files():
            found = file.path.stat().st_size if file.path.is_file() else None
            if found != file.size:
                raise UserError(
                    "a shard is missing" if found is None else "a shard has the wrong size",
                    where=file.path,
                    expected=f"{file.size} bytes",
                    got="no file" if found is None else f"{found} bytes",
                    fix="copy the file again, or delete the store and run `jaxssl prepare` again",
                )

    def _check_sums(self) -> None:
        """Compares the shards' files, whole or by their samples, several at a time."""
        files = self._shard_files()
        total = sum(file.size for file in files)
        shown = self.compares_whole and total > SMALL_BYTES
        with (
            ThreadPoolExecutor(THREADS) as pool,
            bar(total=total, description="verify", unit="B", enabled=shown) as progress,
        ):
            for file, whole in zip(files, pool.map(self._is_as_written, files)):
                progress.update(file.size)
                if not whole:
                    raise UserError(
                        "a shard was altered after it was written",
                        where=file.path,
                        expected=f"the contents that {self.path / MANIFEST} notes",
                        got="other contents",
                        fix="copy the file again, or delete the store and run `jaxssl prepare` "
                        "again",
                    )

    def _is_as_written(self, file: "_ShardFile") -> bool:
        if self.compares_whole:
            return sha256(file.path) == file.sha256
        return file.sample is None or sample_sha256(file.path) == file.sample


class _ShardFile(NamedTuple):
    """A file as the manifest states it; `sample` is None in stores of version 0.1."""

    path: Path
    size: int
    sha256: str
    sample: str | None


def check_vocabulary(store: TokenStore, vocab_size: int, where: str = "model.vocab_size") -> None:
    """Refuses a model whose vocabulary is smaller than the store's largest token id."""
    largest = max(store.manifest.largest_id, store.document_end)
    if largest >= vocab_size:
        raise UserError(
            "the model's vocabulary is smaller than the token store's largest id",
            where=f"{where}, {store.path}",
            expected=f"at least {largest + 1} (the tokenizer has {store.vocab_size})",
            got=vocab_size,
            fix=f"set {where}={store.vocab_size}, or use the store of the model's own tokenizer",
        )


def check_tokenizer(store: TokenStore, tokenizer: Tokenizer) -> None:
    """Refuses a store that was built with another tokenizer than this one or its beginning: then
    its ids are other pieces."""
    built_with = store.manifest.tokenizer.get("fingerprint")
    if built_with == tokenizer.fingerprint:
        return
    place = store.path / "tokenizer"
    if place.is_dir():
        own = load_tokenizer(place)
        if own.fingerprint == built_with and own.is_beginning_of(tokenizer):
            return
    raise UserError(
        "the token store was built with another tokenizer",
        where=store.path,
        expected=f"tokenizer {tokenizer.fingerprint}, or one that has its first pieces",
        got=f"tokenizer {built_with} ({store.manifest.tokenizer.get('name')})",
        fix="prepare the text again with this tokenizer, or use the store's own tokenizer/",
    )
