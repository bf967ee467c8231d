"""The files of a corpus, here or at a URL: checked and opened."""

import dataclasses
from typing import Any, cast

from jaxssl.core.errors import UserError

CHECKED_FILES = 1000
"""Files whose first block is looked at before a run; the others are looked at when read."""
FIRST_BLOCK = 8192


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


def open_file(file: SourceFile) -> Any:
    """The file's bytes, unpacked if it is compressed."""
    return open_stored(file, compression="infer" if file.compressed else None)


def open_stored(file: SourceFile, compression: str | None = None) -> Any:
    """The file's bytes as they are stored, or unpacked by `compression`."""
    if "://" not in file.path and compression is None:
        return open(file.path, "rb", buffering=1 << 20)
    import fsspec

    return cast(Any, fsspec.open(file.path, "rb", compression=compression)).open()
