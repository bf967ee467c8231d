"""datatrove readers: the documents of a source, shared out over tasks, bad ones skipped.

A text file of more than `PART_BYTES` is handed on in several `Document`s with the same id; all but
the last have `metadata["more"]`. They are cut before whitespace, so that encoding the parts gives
the tokens of the whole.
"""

import abc
import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers import HuggingFaceDatasetReader

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.docstrings import collect
from jaxssl.data.corpus.files import FIRST_BLOCK, SourceFile, open_file
from jaxssl.data.corpus.hub import HubRows, Keys
from jaxssl.data.corpus.lines import MAX_LINE_BYTES, Line, Lines, share
from jaxssl.data.corpus.marks import checked_spans
from jaxssl.data.corpus.sentences import last_whitespace
from jaxssl.data.corpus.skipped import EMPTY, SkippedDocuments

PART_BYTES = 1 << 20


class Reader(PipelineStep):
    """Base of our readers: keeps count of what was skipped.

    Args:
      skipped_to: start of the names of the files for skipped documents ("-00000.jsonl" is added
        for each task); None to count only.
    """

    type = "📖 - READER"
    name = "reader"

    def __init__(self, skipped_to: str | Path | None = None):
        super().__init__()
        self.skipped_to = skipped_to
        self.skipped = SkippedDocuments()
        """What the latest run skipped."""

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        """Yields the documents in `data` and then those of task `rank`."""
        yield from data or ()
        self.skipped = SkippedDocuments(skipped_file(self.skipped_to, rank))
        with self.skipped:
            for document in self.documents(rank, world_size):
                self.stat_update("documents")
                yield document

    @abc.abstractmethod
    def documents(self, rank: int, world_size: int) -> Iterator[Document]:
        """The documents of task `rank` of `world_size`."""


class FilesReader(Reader):
    """Base of the readers of files."""

    name = "files"
    can_cut = True
    """Whether a file can be read from the middle."""
    many = True
    """Whether a file holds many documents: nobody knows how many are lost of one that cannot be
    read to its end."""

    def __init__(self, files: list[SourceFile], skipped_to: str | Path | None = None):
        super().__init__(skipped_to)
        self.files = files

    def documents(self, rank: int, world_size: int) -> Iterator[Document]:
        for file, start, stop in share(self.files, rank, world_size, self.can_cut):
            self.stat_update("input_files")
            try:
                yield from self.read(file, start, stop)
            except (OSError, EOFError) as error:  # a damaged archive, a file without permission
                reason = f"{type(error).__name__}: {error}"
                if self.many:
                    raise _cut_short(file.path, reason) from error
                self.skipped.add(file.path, None, reason)

    @abc.abstractmethod
    def read(self, file: SourceFile, start: int, stop: int | None) -> Iterator[Document]:
        """Documents that start in bytes [start, stop) of `file`."""


class JsonlReader(FilesReader):
    """One document a line. `metadata["group"]` is the value of the group's key, if it has one, and
    `metadata["spans"]` that of the spans' key."""

    name = "jsonl"

    def __init__(self, files: list[SourceFile], keys: Keys, skipped_to: str | Path | None = None):
        super().__init__(files, skipped_to)
        self.keys = keys

    def read(self, file: SourceFile, start: int, stop: int | None) -> Iterator[Document]:
        for line in Lines(file, start, stop):
            if line.is_blank:
                continue
            try:
                yield self._document(file, line)
            except ValueError as error:
                self.skipped.add(file.path, line.number, str(error))

    def _document(self, file: SourceFile, line: Line) -> Document:
        if line.data is None:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
        text = decode(line.data)
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"a JSON {type(row).__name__}, not an object")
        text = check_text(_value(row, self.keys.text))
        key, group = self.keys.id, self.keys.group
        name = f"{file.id}:{line.offset}" if key is None else str(_value(row, key))
        metadata = {} if group is None else {"group": str(_value(row, group))}
        return Document(text, name, metadata=metadata | _spans(row, self.keys, text))


class ParagraphReader(FilesReader):
    """One document a stretch of lines between blank lines.

    A document belongs to the part of the file that holds the start of the last blank line before it
    (or the start of the file), so that a task need not look at what comes before its part.
    """

    name = "paragraphs"

    def read(self, file: SourceFile, start: int, stop: int | None) -> Iterator[Document]:
        lines: list[Line] = []
        size, owned = 0, start == 0
        for line in Lines(file, start, None):
            if not line.is_blank:
                size += MAX_LINE_BYTES if line.data is None else len(line.data)
                if not lines or size < MAX_LINE_BYTES:
                    lines.append(line)
                continue
            if owned and lines:
                yield from self._documents(file, lines, size)
            lines, size, owned = [], 0, stop is None or line.offset < stop
            if not owned:
                return
        if owned and lines:
            yield from self._documents(file, lines, size)

    def _documents(self, file: SourceFile, lines: list[Line], size: int) -> Iterator[Document]:
        try:
            if size >= MAX_LINE_BYTES:
                raise ValueError(f"{MAX_LINE_BYTES >> 20} MiB or more without a blank line")
            text = check_text(decode(b"".join(line.data or b"" for line in lines)))
            yield Document(text.rstrip("\r\n"), f"{file.id}:{lines[0].offset}")
        except ValueError as error:
            self.skipped.add(file.path, lines[0].number, str(error))


class TextFileReader(FilesReader):
    """One document a file; a large one in parts."""

    name = "text"
    can_cut = many = False

    def read(self, file: SourceFile, start: int, stop: int | None) -> Iterator[Document]:
        try:
            with open_file(file) as opened:
                check_encoding(opened)
            with open_file(file) as opened:
                yield from _with_more(_parts(opened), file.id)
        except ValueError as error:
            self.skipped.add(file.path, None, str(error))


class DocstringReader(Reader):
    """Docstrings of installed packages. Each task parses all of them and keeps its share."""

    name = "docstrings"

    def __init__(
        self,
        packages: tuple[str, ...],
        max_bytes: int | None,
        skipped_to: str | Path | None = None,
    ):
        super().__init__(skipped_to)
        self.packages, self.max_bytes = packages, max_bytes

    def documents(self, rank: int, world_size: int) -> Iterator[Document]:
        skipped = self.skipped if rank == 0 else SkippedDocuments()
        modules = collect(self.packages, self.max_bytes, skipped, progress=rank == 0)
        for i, module in enumerate(modules):
            if i % world_size == rank:
                metadata = {"group": module.path, "package": module.package}
                yield Document(module.text, module.path, metadata=metadata)


class HubReader(Reader):
    """Rows of a hub data set, streamed by datatrove's reader; rows without text are skipped."""

    name = "hub"

    def __init__(self, rows: HubRows, keys: Keys, skipped_to: str | Path | None = None):
        super().__init__(skipped_to)
        self.rows, self.keys = rows, keys

    def documents(self, rank: int, world_size: int) -> Iterator[Document]:
        yield from _Stream(self.rows, self.keys, self.skipped).run(None, rank, world_size) or ()


class _Stream(HuggingFaceDatasetReader):
    def __init__(self, rows: HubRows, keys: Keys, skipped: SkippedDocuments):
        options = {"name": rows.subset, "split": rows.split, "revision": rows.revision}
        super().__init__(rows.dataset, options, streaming=True, text_key=keys.text)
        self.keys, self.skipped = keys, skipped

    def get_document_from_dict(self, data: dict, source_file: str, id_in_file: int | str):
        name = f"{source_file}/{id_in_file}"
        key, group_key = self.keys.id, self.keys.group
        try:
            text = check_text(_value(data, self.text_key))
            name = name if key is None else str(_value(data, key))
            # Not the place by default: it depends on how many tasks read the data set.
            group = text if group_key is None else str(_value(data, group_key))
            return Document(text, name, metadata={"group": group} | _spans(data, self.keys, text))
        except ValueError as error:
            self.skipped.add(name, None, str(error))
            return None


def _cut_short(path: str, reason: str) -> UserError:
    return UserError(
        "a file of documents cannot be read to its end",
        where=path,
        expected="a whole file that may be read",
        got=reason,
        fix="copy or download it again, or leave it out of source.paths",
    )


def skipped_file(start: str | Path | None, rank: int) -> Path | None:
    """The file for what task `rank` skips."""
    return None if start is None else Path(f"{start}-{rank:05d}.jsonl")


def check_text(text: Any) -> str:
    """`text` if it can be a document; a `ValueError` says why not."""
    if not isinstance(text, str):
        raise ValueError(f"the text is a {type(text).__name__}, not a string")
    if not text or text.isspace():
        raise ValueError(EMPTY)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("the text has half of a surrogate pair") from None
    return text


def decode(data: bytes) -> str:
    """UTF-8 to text; a `ValueError` says what is wrong."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None


def check_encoding(opened: Any) -> None:
    """Reads all of a file; a `ValueError` says why it cannot be a document."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    empty, line, first = True, 1, True
    while block := opened.read(1 << 20):
        if first and b"\0" in block[:FIRST_BLOCK]:
            raise ValueError("a binary file (NUL bytes in its first block)")
        first = False
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise ValueError(f"not UTF-8: {error.reason} in line {line}") from None
        empty = empty and not text.removeprefix("\ufeff").strip()
        line += block.count(b"\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8: the file ends within a character") from None
    if empty:
        raise ValueError(EMPTY)


def _parts(opened: Any) -> Iterator[str]:
    """The text of a file of valid UTF-8 in parts of about `PART_BYTES`, cut before whitespace."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    while block := opened.read(PART_BYTES):
        rest += decoder.decode(block)
        if len(block) == PART_BYTES or len(rest) > PART_BYTES:
            cut = _cut(rest)
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _cut(text: str) -> int:
    """Where to cut: before a blank line in the second half, else before any whitespace."""
    blank = text.rfind("\n\n", len(text) // 2)
    if blank > 0 and not text[blank - 1].isspace():
        return blank
    return last_whitespace(text, 1, len(text) - 1) or len(text)


def _with_more(parts: Iterator[str], name: str) -> Iterator[Document]:
    previous: str | None = None
    for part in parts:
        if previous is not None:
            yield Document(previous, name, metadata={"more": True})
        previous = part
    if previous is not None:
        yield Document(previous, name)


def _spans(row: dict, keys: Keys, text: str) -> dict[str, Any]:
    """The marked spans that a row has, in order."""
    return {} if keys.spans is None else {"spans": checked_spans(_value(row, keys.spans), text)}


def _value(row: dict, key: str) -> Any:
    if key not in row:
        raise ValueError(f"no key {key!r} (keys: {', '.join(sorted(map(str, row))[:8])})")
    return row[key]
