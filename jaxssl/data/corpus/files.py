"""The files of a corpus, here or at a URL: listed, checked, opened, told apart."""

import contextlib
import dataclasses
import glob
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from jaxssl.core.errors import UserError

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
    except EOFError:  # a damaged archive: its reader will skip it
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
    except OSError as error:  # what cannot be opened is skipped by its reader
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
