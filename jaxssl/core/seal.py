"""A seal over files that decide a result: their SHA-256, compared when they are opened.

`seal.json` and the manifest of a checkpoint hold a checksum of themselves, too, so that damage of
theirs is told from a newer version's. A file that was edited on purpose is accepted with
`jaxssl seal DIRECTORY`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
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
    """Files by their names below a directory, with the checksum of this list itself."""

    __pydantic_config__: ClassVar = STRICT
    format: int
    files: Mapping[str, FileRecord]
    sha256: str | None = None
    """None in files of version 0.1."""


def write_sealed(path: Path, names: Iterable[str]) -> None:
    """Writes to `path` what the files of these names beside it hold."""
    directory, names = path.parent, sorted(names)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        digests = list(pool.map(sha256, (directory / name for name in names)))
    files = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests)
    }
    content = {"format": FORMAT, "files": files}
    with atomic_write(path) as file:
        json.dump({**content, OWN: _digest(content)}, file, indent=2, ensure_ascii=False)


def read_sealed(path: Path, *, what: str, fix: str) -> Mapping[str, FileRecord]:
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
    for name in sealed.files:
        inside(path.parent, name, what=what, fix=fix)
    return sealed.files


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


def seal(directory: Path, names: Iterable[str]) -> None:
    """Notes the files of these names, of those that are there."""
    write_sealed(directory / SEAL, (name for name in names if (directory / name).is_file()))


def check_seal(directory: Path) -> bool:
    """Compares the files of a run or a store with its seal; false if it has none.

    Raises:
      UserError: names each file that is missing or altered.
    """
    path = directory / SEAL
    if not path.exists() and not path.is_symlink():
        return False
    accept = f"restore it from a copy; if it was edited on purpose: jaxssl seal {directory}"
    files = read_sealed(path, what="the seal of a directory is damaged", fix=accept)
    altered = [name for name, record in files.items() if not _is_as(directory / name, record)]
    if altered:
        missing = [name for name in altered if not (directory / name).is_file()]
        raise UserError(
            "a file is not what was written",
            where=", ".join(str(directory / name) for name in altered),
            expected=f"the contents that {path} notes",
            got="no such file" if missing == altered else "other contents",
            fix=accept,
        )
    return True


def _is_as(path: Path, record: FileRecord) -> bool:
    """Whether a file is what was noted."""
    if not path.is_file() or path.stat().st_size != record.bytes:
        return False
    return sha256(path) == record.sha256
