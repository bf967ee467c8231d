"""A seal over files that decide a result: their SHA-256, compared when they are opened, and which
files are not there, for one that is added would be read, too.

`seal.json` and the manifest of a checkpoint hold a checksum of themselves, too, so that damage of
theirs is told from a newer version's. A file that was edited on purpose is accepted with
`jaxssl seal DIRECTORY`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, sha256
from jaxssl.core.json_files import STRICT, read_json

SEAL = "seal.json"
FORMAT = 1
OWN = "sha256"


class NewerVersion(UserError):
    """A file of a format that this version does not know: not the same as damaged."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecord:
    """A file's size and SHA-256."""

    __pydantic_config__: ClassVar = STRICT
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sealed:
    """Files by their names below a directory, with the checksum of this list itself.

    Attributes:
      absent: names of files that are not there.
      folders: those that hold the files that are listed, and no others but hidden ones.
      sha256: None in files of version 0.1.
    """

    __pydantic_config__: ClassVar = STRICT
    format: int
    files: Mapping[str, FileRecord]
    absent: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    sha256: str | None = None


def write_sealed(path: Path, names: Iterable[str], **further: Sequence[str]) -> None:
    """Writes to `path` what the files of these names beside it hold.

    Args:
      further: other fields of `Sealed`.
    """
    directory, names = path.parent, sorted(names)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        digests = list(pool.map(sha256, (directory / name for name in names)))
    files = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests)
    }
    content = {"format": FORMAT, "files": files, **further}
    with atomic_write(path) as file:
        json.dump({**content, OWN: _digest(content)}, file, indent=2, ensure_ascii=False)


def read_sealed(path: Path, *, what: str, fix: str) -> Sealed:
    """What `write_sealed` wrote.

    Raises:
      UserError: it is damaged, or names a file outside its directory.
      NewerVersion: it is whole, and of a format that this version does not know.
    """
    raw = read_json(path, what=what, fix=fix)
    own = raw.pop(OWN, None)
    if own is not None and own != _digest(raw):
        raise UserError(
            what, where=path, expected="what its own checksum says", got="other content", fix=fix
        )
    if own is not None and isinstance(raw.get("format"), int) and raw["format"] > FORMAT:
        raise newer_version(path, raw["format"])
    sealed = read_json(path, Sealed, what=what, fix=fix)
    if sealed.format != FORMAT:
        raise UserError(
            what, where=path, expected=f"format {FORMAT}", got=f"format {sealed.format}", fix=fix
        )
    for name in (*sealed.files, *sealed.absent, *sealed.folders):
        inside(path.parent, name, what=what, fix=fix)
    return sealed


def newer_version(path: Path, found: int) -> NewerVersion:
    return NewerVersion(
        "this was written by a newer version of jaxssl",
        where=path,
        expected=f"format {FORMAT} or older",
        got=f"format {found}",
        fix="upgrade jaxssl: pip install -U jaxssl",
    )


def _digest(content: Mapping[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def inside(directory: Path, name: str, *, what: str, fix: str) -> Path:
    """The path of a file that another file names.

    Raises:
      UserError: it is outside the directory (`../`, absolute), or no name at all.
    """
    path = Path(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise UserError(
            what,
            where=directory,
            expected="names of files inside this directory",
            got=repr(name),
            fix=fix,
        )
    return directory / path


# --- The files of a run or a store ---------------------------------------------------------------


def seal(directory: Path, names: Iterable[str], folders: Sequence[str] = ()) -> None:
    """Notes the files of these names, which of them are not there, and all files of the folders."""
    names = list(names)
    absent = [name for name in names if not (directory / name).is_file()]
    files = {*names, *(file for folder in folders for file in _files_of(directory, folder))}
    files -= {*absent}
    write_sealed(directory / SEAL, files, absent=absent, folders=folders)


def check_seal(directory: Path) -> bool:
    """Compares the files of a run or a store with its seal; false if it has none.

    Raises:
      UserError: names each file that is missing, altered or added.
    """
    path = directory / SEAL
    if not path.exists() and not path.is_symlink():
        return False
    accept = f"if it was edited on purpose: jaxssl seal {directory}"
    fix = f"restore it from a copy; {accept}"
    sealed = read_sealed(path, what="the seal of a directory is damaged", fix=fix)
    wrong = {
        name: "other contents" if (directory / name).is_file() else "no such file"
        for name, record in sealed.files.items()
        if not _is_as(directory / name, record)
    }
    added = _added(directory, sealed)
    wrong |= dict.fromkeys(added, "a file that was not there")
    if wrong:
        raise UserError(
            "a file is not what was written",
            where=", ".join(str(directory / name) for name in wrong),
            expected=f"the contents that {path} notes",
            got=", ".join(dict.fromkeys(wrong.values())),
            fix=f"delete what was added; {accept}" if len(added) == len(wrong) else fix,
        )
    return True


def _added(directory: Path, sealed: Sealed) -> list[str]:
    """Files that were not there when a directory was sealed."""
    added = [name for name in sealed.absent if os.path.lexists(directory / name)]
    for folder in sealed.folders:
        added += [name for name in _files_of(directory, folder) if name not in sealed.files]
    return added


def _files_of(directory: Path, folder: str) -> list[str]:
    """Names below `directory` of all files in a folder of it, but for hidden ones: nobody reads
    what a killed writer or a file browser has left there."""
    paths = (path for path in (directory / folder).rglob("*") if path.is_file())
    names = (path.relative_to(directory) for path in paths)
    return sorted(str(name) for name in names if not any(part[0] == "." for part in name.parts))


def _is_as(path: Path, record: FileRecord) -> bool:
    """Whether a file is what was noted."""
    if not path.is_file() or path.stat().st_size != record.bytes:
        return False
    return sha256(path) == record.sha256
