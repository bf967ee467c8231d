"""Where text comes from: configurations of the sources and the checks that come before reading.

Each source has `check()`, which finds a user's mistakes early, `inputs()`, the files that it reads,
and `reader()`, which makes the datatrove reader that yields its documents, shared out over tasks by
(rank, world_size).
"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxssl.core.errors import UserError
from jaxssl.core.progress import tell
from jaxssl.data.corpus.docstrings import collect, write_docstrings
from jaxssl.data.corpus.files import SourceFile, check_files
from jaxssl.data.corpus.hub import HubRows, Keys
from jaxssl.data.corpus.listing import Listing, list_files
from jaxssl.data.corpus.skipped import SkippedDocuments
from jaxssl.data.corpus.template import parsed

# The readers are imported where they are made: they load datatrove.
if TYPE_CHECKING:
    from jaxssl.data.corpus.readers import Reader

MAX_DOCUMENT_BYTES = 64 << 20
"""A text file that is one document may be this large; its tokens are held in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Plain text files in UTF-8."""

    name: Literal["text"] = "text"
    paths: tuple[str, ...]
    """Files, folders (all files below them), patterns (`**` crosses folders) or fsspec URLs; .gz,
    .bz2, .xz and .zst are unpacked. Links are followed, and each real file is read once."""
    documents: Literal["file", "blank_lines"] = "file"
    """What one document is: a whole file, or a stretch between blank lines."""

    def listing(self) -> Listing:
        return list_files(self.paths, lambda name: True)

    def inputs(self) -> list[SourceFile]:
        return self.listing().files

    def check(self) -> None:
        files = _checked(self.listing())
        largest = max(files, key=lambda file: file.size)
        if self.documents == "file" and largest.size > MAX_DOCUMENT_BYTES:
            raise UserError(
                "a text file is too large to be one document",
                where=largest.path,
                expected=f"at most {MAX_DOCUMENT_BYTES >> 20} MiB",
                got=f"{largest.size >> 20} MiB",
                fix="set documents=blank_lines, or split the file",
            )

    def reader(self, skipped_to: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import ParagraphReader, TextFileReader

        kind = TextFileReader if self.documents == "file" else ParagraphReader
        return kind(self.inputs(), skipped_to)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl:
    """Files with one JSON object a line, in UTF-8."""

    name: Literal["jsonl"] = "jsonl"
    paths: tuple[str, ...]
    """Files, folders (the .jsonl, .ndjson and .json files below them, also compressed), patterns or
    fsspec URLs. Links are followed, and each real file is read once."""
    text_key: str = "text"
    """Key of the text."""
    id_key: str | None = None
    """Key of a document's own id; null means its place in the file."""
    group_key: str | None = None
    """Key of the group (an author, a site) that must not be divided between training and held-out
    text; null means that each document is its own."""
    spans_key: str | None = None
    """Key of a list of [start, end): the spans of the text, in characters, that are marked for
    `units: {name: marked}`. They do not overlap; null in a row is none."""

    def listing(self) -> Listing:
        return list_files(self.paths, _is_jsonl)

    def inputs(self) -> list[SourceFile]:
        return self.listing().files

    @property
    def keys(self) -> Keys:
        return Keys(self.text_key, self.id_key, self.group_key, self.spans_key)

    def check(self) -> None:
        _checked(self.listing())

    def reader(self, skipped_to: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import JsonlReader

        return JsonlReader(self.inputs(), self.keys, skipped_to)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set of the Hugging Face hub by name, or a local folder of one, streamed."""

    name: Literal["hub"] = "hub"
    dataset: str
    """Name on the hub ("owner/name"), or a folder that `datasets.load_dataset` reads."""
    config: str | None = None
    """Which of the data set's configurations (subsets)."""
    split: str = "train"
    """Which of the data set's splits to read. Held-out text is split off from it by `prepare`."""
    revision: str | None = None
    """Branch, tag or commit of the data set; null is the main branch. `prepare` records the commit
    this stands for, where the hub can be asked, and reads that one to the end."""
    text_key: str = "text"
    """Column of the text."""
    id_key: str | None = None
    """Column of a document's own id; null means its place in what a task reads."""
    group_key: str | None = None
    """Column of the group (an author, a site) that must not be divided between training and
    held-out text; null means that documents with the same text are one."""
    spans_key: str | None = None
    """Column of a list of [start, end): the spans of the text, in characters, that are marked for
    `units: {name: marked}`. They do not overlap; null in a row is none."""

    @property
    def rows(self) -> HubRows:
        return HubRows(self.dataset, self.config, self.split, self.revision)

    @property
    def keys(self) -> Keys:
        return Keys(self.text_key, self.id_key, self.group_key, self.spans_key)

    def inputs(self) -> list[SourceFile]:
        """The files of a local folder; none of a data set of the hub, which has a commit."""
        is_local = Path(self.dataset).exists()
        return list_files([self.dataset], lambda name: True).files if is_local else []

    def check(self) -> None:
        if self.revision is not None and Path(self.dataset).exists():
            raise UserError(
                "a local folder has no revisions",
                where="source.revision",
                expected=f"null, for the folder {self.dataset}",
                got=self.revision,
            )
        self.rows.check(self.keys)

    def commit(self) -> str | None:
        """The commit that `revision` stands for now; None for a folder, or if none can be had."""
        return self.rows.commit()

    def reader(self, skipped_to: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import HubReader

        return HubReader(self.rows, self.keys, skipped_to)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Docstrings:
    """Docstrings of the Python packages installed in this environment; one document a module."""

    name: Literal["docstrings"] = "docstrings"
    packages: tuple[str, ...] = ()
    """Names the packages are imported by; empty means all that are installed."""
    max_bytes: int | None = None
    """At most this much text, in UTF-8 bytes; modules are then chosen by a hash of their paths.
    Null means all."""

    def __post_init__(self):
        if self.max_bytes is not None and self.max_bytes < 1:
            raise UserError(
                "max_bytes must be positive",
                where="max_bytes",
                expected="1 or more bytes, or null for all",
                got=self.max_bytes,
            )

    def inputs(self) -> list[SourceFile]:
        """None: `docstrings.installed` says what there is."""
        return []

    def check(self) -> None:
        """Nothing to do: reading looks for the packages first."""

    def collected(self, directory: Path) -> Jsonl:
        """The docstrings in a file in `directory`, written now if it is not there yet.

        What was skipped is in the file `docstrings-set-aside.jsonl` beside it.
        """
        path = directory / "docstrings.jsonl"
        if not path.is_file():
            unfinished = path.with_suffix(".part")
            with SkippedDocuments(directory / "docstrings-set-aside.jsonl") as skipped:
                write_docstrings(collect(self.packages, self.max_bytes, skipped), unfinished)
            os.replace(unfinished, path)
        return Jsonl(paths=(str(path),), id_key="id", group_key="group")

    def reader(self, skipped_to: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import DocstringReader

        return DocstringReader(self.packages, self.max_bytes, skipped_to)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Triples:
    """Knowledge as text: a sentence of each triple, a document of those of one subject that follow
    each other. A relation's underscores become blanks."""

    name: Literal["triples"] = "triples"
    paths: tuple[str, ...]
    """Files, folders (the .tsv, .csv and .txt files below them, also compressed), patterns or
    fsspec URLs: a subject, a relation and an object a line, in UTF-8. Comma-separated in .csv,
    where quotes may hold a comma; else tab-separated, without quotes."""
    template: str = "{subject} {relation} {object}."
    """The sentence of a triple; on the command line in quotes of its own,
    'source.template="{subject} {relation} {object}."'."""
    header: bool = False
    """Whether the first line of each file names the columns; they may then be in any order, and
    beside others."""
    marked: bool = False
    """Whether subjects and objects are marked spans, for `units: {name: marked}`."""

    def __post_init__(self):
        parsed(self.template)

    def listing(self) -> Listing:
        return list_files(self.paths, _is_triples)

    def inputs(self) -> list[SourceFile]:
        return self.listing().files

    def check(self) -> None:
        _checked(self.listing())

    def reader(self, skipped_to: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.triples import TripleReader

        return TripleReader(self.inputs(), self.template, self.header, self.marked, skipped_to)


SourceConfig = TextFiles | Jsonl | Hub | Docstrings | Triples


def gives_spans(source: SourceConfig) -> bool:
    """Whether a source's documents come with marked spans."""
    if isinstance(source, Triples):
        return source.marked
    return isinstance(source, Jsonl | Hub) and source.spans_key is not None


def _checked(listing: Listing) -> list[SourceFile]:
    """The files, checked; what lies there and is not read is told."""
    check_files(listing.files)
    for note in listing.notes:
        tell(note)
    return listing.files


def _is_jsonl(name: str) -> bool:
    return _ends(name, (".jsonl", ".ndjson", ".json"))


def _is_triples(name: str) -> bool:
    return _ends(name, (".tsv", ".csv", ".txt"))


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    """Whether a file has one of these endings, compressed or not."""
    return name.endswith(
        tuple(end + pack for end in endings for pack in ("", ".gz", ".zst", ".bz2", ".xz"))
    )
