"""Where text comes from: configurations of the sources and the checks that come before reading.

Each source has `check()`, which finds a user's mistakes early, and `reader()`, which makes the
datatrove reader that yields its documents, shared out over tasks by (rank, world_size).
"""

import contextlib
import dataclasses
import glob
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from jaxssl.core.errors import UserError

if TYPE_CHECKING:
    from jaxssl.data.corpus.readers import Reader

MAX_DOCUMENT_BYTES = 64 << 20
"""A text file that is one document may be this large; its tokens are held in memory."""
CHECKED_FILES = 1000
"""Files whose first block is looked at before a run; the others are looked at when read."""
FIRST_BLOCK = 8192
ENDS = 64 << 10


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """One file of a corpus."""

    path: str
    """Path or fsspec URL."""
    id: str
    """Path below the folder or pattern that was asked for: does not change when a corpus moves."""
    size: int
    """Bytes, as stored."""

    @property
    def compressed(self) -> bool:
        return self.path.endswith((".gz", ".zst", ".bz2", ".xz"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Plain text files in UTF-8."""

    name: Literal["text"] = "text"
    paths: tuple[str, ...]
    """Files, folders (all files below them), globs (`**` crosses folders) or fsspec URLs; .gz,
    .bz2, .xz and .zst are unpacked."""
    documents: Literal["file", "blank_lines"] = "file"
    """What one document is: a whole file, or a stretch between blank lines."""

    def files(self) -> list[SourceFile]:
        return list_files(self.paths, lambda name: True)

    def check(self) -> None:
        files = self.files()
        check_files(files)
        largest = max(files, key=lambda file: file.size)
        if self.documents == "file" and largest.size > MAX_DOCUMENT_BYTES:
            raise UserError(
                "a text file is too large to be one document",
                where=largest.path,
                expected=f"at most {MAX_DOCUMENT_BYTES >> 20} MiB",
                got=f"{largest.size >> 20} MiB",
                fix="set documents=blank_lines, or split the file",
            )

    def reader(self, set_aside: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import ParagraphReader, TextFileReader

        kind = TextFileReader if self.documents == "file" else ParagraphReader
        return kind(self.files(), set_aside)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl:
    """Files with one JSON object a line, in UTF-8."""

    name: Literal["jsonl"] = "jsonl"
    paths: tuple[str, ...]
    """Files, folders (the .jsonl, .ndjson and .json files below them, also compressed), globs or
    fsspec URLs."""
    text_key: str = "text"
    """Key of the text."""
    id_key: str | None = None
    """Key of a document's own id; null means its place in the file."""
    group_key: str | None = None
    """Key of the group (an author, a site) that must not be divided between training and held-out
    text; null means that each document is its own."""

    def files(self) -> list[SourceFile]:
        return list_files(self.paths, _is_jsonl)

    def check(self) -> None:
        check_files(self.files())

    def reader(self, set_aside: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import JsonlReader

        return JsonlReader(self, self.files(), set_aside)


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

    def check(self) -> None:
        from jaxssl.data.corpus.readers import open_hub

        if self.revision is not None and Path(self.dataset).exists():
            raise UserError(
                "a local folder has no revisions",
                where="source.revision",
                expected=f"null, for the folder {self.dataset}",
                got=self.revision,
            )
        open_hub(self)

    def commit(self) -> str | None:
        """The commit that `revision` stands for now; None for a folder, or if none can be had."""
        from jaxssl.data.corpus.readers import hub_commit

        return None if Path(self.dataset).exists() else hub_commit(self)

    def reader(self, set_aside: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import HubReader

        return HubReader(self, set_aside)


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

    def check(self) -> None:
        """Nothing to do: reading looks for the packages first."""

    def reader(self, set_aside: str | Path | None = None) -> "Reader":
        from jaxssl.data.corpus.readers import DocstringReader

        return DocstringReader(self, set_aside)


SourceConfig = TextFiles | Jsonl | Hub | Docstrings


def list_files(paths: Iterable[str], wanted: Callable[[str], bool]) -> list[SourceFile]:
    """The files that `paths` name: in the order of `paths`, sorted within each, none twice.

    Args:
      paths: files, folders, globs or fsspec URLs.
      wanted: which names to take from a folder.

    Raises:
      UserError: a path that does not exist or names nothing, or no path at all.
    """
    found: dict[str, SourceFile] = {}
    for pattern in paths:
        files = _list_remote(pattern, wanted) if "://" in pattern else _list_local(pattern, wanted)
        if not files:
            exists = Path(pattern).exists()
            raise UserError(
                "a path of the corpus is empty" if exists else "a path of the corpus names nothing",
                where=pattern,
                expected="a file, a folder with files, a glob or a URL",
                got="no files of this kind in it" if exists else "no such file",
                fix="correct source.paths; relative paths start at the current directory",
            )
        for file in files:
            found.setdefault(file.path, file)
    if not found:
        raise UserError(
            "the corpus has no paths",
            where="source.paths",
            expected="at least one file, folder, glob or URL",
            got="none",
        )
    return list(found.values())


def _list_local(pattern: str, wanted: Callable[[str], bool]) -> list[SourceFile]:
    path = Path(pattern)
    if path.is_file():
        return [SourceFile(str(path), path.name, path.stat().st_size)]
    if path.is_dir():
        root = path
        files = [f for f in path.rglob("*") if wanted(f.name)]
    else:
        literal = glob.escape(pattern).split("[")[0] if glob.has_magic(pattern) else pattern
        root = Path(literal[: literal.rfind("/") + 1] or ".")
        files = [Path(f) for f in glob.glob(pattern, recursive=True)]
    hidden = [f for f in files if any(p.startswith(".") for p in f.relative_to(root).parts)]
    files = sorted(f for f in set(files) - set(hidden) if f.is_file())
    return [SourceFile(str(f), f.relative_to(root).as_posix(), f.stat().st_size) for f in files]


def _list_remote(pattern: str, wanted: Callable[[str], bool]) -> list[SourceFile]:
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(pattern)
        if glob.has_magic(path):
            infos = filesystem.glob(path, detail=True)
        elif filesystem.isdir(path):
            infos = {f: i for f, i in filesystem.find(path, detail=True).items() if wanted(f)}
        else:
            infos = {path: filesystem.info(path)}
    except FileNotFoundError:
        return []
    except (OSError, ValueError, ImportError) as error:
        raise UserError("a URL of the corpus cannot be read", where=pattern, got=error) from error
    root = path.split("*")[0].rpartition("/")[0] if len(infos) > 1 else path.rpartition("/")[0]
    return [
        SourceFile(filesystem.unstrip_protocol(f), f.removeprefix(root).lstrip("/"), info["size"])
        for f, info in sorted(infos.items())
        if info["type"] == "file"
    ]


def check_files(files: list[SourceFile]) -> None:
    """Raises a `UserError` when the corpus is empty or one of its first files is binary."""
    if not any(file.size for file in files):
        raise UserError(
            "the corpus is empty",
            where=files[0].path
            if len(files) == 1
            else f"{files[0].path} and {len(files) - 1} more",
            expected="text in UTF-8",
            got="0 bytes",
        )
    for file in files[:CHECKED_FILES]:
        if b"\0" in _first_block(file):
            raise UserError(
                "a file of the corpus is binary, not text",
                where=file.path,
                expected="text in UTF-8",
                got="NUL bytes in its first block (UTF-16 has them too)",
                fix="leave the file out of source.paths, or convert it to UTF-8",
            )


def _first_block(file: SourceFile) -> bytes:
    try:
        with open_file(file) as opened:
            return opened.read(FIRST_BLOCK)
    except EOFError:  # a damaged archive: its reader will set it aside
        return b""
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            "a file of the corpus cannot be read", where=file.path, got=error
        ) from error


def fingerprint(file: SourceFile) -> str:
    """SHA-256 of a file's name, size, and first and last 64 KiB as stored: for noticing changes.

    Of a URL that cannot be read from the middle, the beginning only.
    """
    digest = hashlib.sha256(f"{file.id}\0{file.size}\0".encode())
    try:
        with _open_stored(file) as opened:
            digest.update(opened.read(ENDS))
            if file.size and file.size > ENDS:
                with contextlib.suppress(ValueError):  # how fsspec says that it only streams
                    opened.seek(max(ENDS, file.size - ENDS))
                    digest.update(opened.read(ENDS))
    except OSError as error:  # what cannot be opened is set aside by its reader
        digest.update(type(error).__name__.encode())
    return digest.hexdigest()


def open_file(file: SourceFile) -> Any:
    """The file's bytes, unpacked if it is compressed."""
    return _open_stored(file, compression="infer" if file.compressed else None)


def _open_stored(file: SourceFile, compression: str | None = None) -> Any:
    if "://" not in file.path and compression is None:
        return open(file.path, "rb", buffering=1 << 20)
    import fsspec

    return cast(Any, fsspec.open(file.path, "rb", compression=compression)).open()


def _is_jsonl(name: str) -> bool:
    endings = (".jsonl", ".ndjson", ".json")
    return name.endswith(
        tuple(end + pack for end in endings for pack in ("", ".gz", ".zst", ".bz2", ".xz"))
    )
