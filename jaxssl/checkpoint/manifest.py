"""The seal of a checkpoint: which files it has, how large they are, and their SHA-256.

Orbax does not notice a flipped byte in array data, and a directory that was half copied looks
whole to it. The manifest is written last, so a step without one was never finished.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, sha256
from jaxssl.core.json_files import read_json
from jaxssl.core.seal import FORMAT, FileRecord, newer_version, read_sealed, write_sealed

MANIFEST, META = "manifest.json", "meta.json"
WHAT = "a checkpoint is damaged"
FIX = (
    "copy it again if you have it; training goes on from an older step that is intact, and "
    "other verbs take one with --step"
)


def seal(directory: Path, meta: dict[str, Any]) -> None:
    """Writes `meta.json` and then the manifest over every file in `directory`."""
    with atomic_write(directory / META) as file:
        json.dump({"format": FORMAT, **meta}, file, indent=2)
    paths = [p for p in sorted(directory.rglob("*")) if p.is_file() and p.name != MANIFEST]
    write_sealed(directory / MANIFEST, (str(path.relative_to(directory)) for path in paths))


def is_sealed(directory: Path) -> bool:
    """Whether the step was finished. One whose manifest is no file any more is damaged."""
    return os.path.lexists(directory / MANIFEST)


def read_meta(directory: Path) -> dict[str, Any]:
    """The checkpoint's `meta.json`, compared with the manifest first, where there is one.

    Raises:
      UserError: one of the two is damaged.
      NewerVersion: the checkpoint is whole, and was written by a newer version.
    """
    path = directory / META
    if is_sealed(directory):
        files = read_sealed(directory / MANIFEST, what=WHAT, fix=FIX).files
        if META not in files:
            raise damaged(directory / MANIFEST, f"a checksum of {META}", "none")
        _check(path, files[META])
    meta = read_json(path, what=WHAT, fix=FIX)
    if not isinstance(meta.get("format"), int) or not isinstance(meta.get("step"), int):
        raise damaged(path, "a format and a step", sorted(meta))
    if meta["format"] > FORMAT:
        raise newer_version(path, meta["format"])
    return meta


def verify(directory: Path) -> None:
    """Compares every file with the manifest.

    Raises:
      UserError: names the first file that is missing, truncated or altered.
      NewerVersion: the manifest is whole, and was written by a newer version.
    """
    files = read_sealed(directory / MANIFEST, what=WHAT, fix=FIX).files
    for name, record in files.items():
        _check_size(directory / name, record)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: _check(directory / name, files[name]), files))


def _check_size(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise damaged(path, "a file", "none")
    if path.stat().st_size != record.bytes:
        raise damaged(path, f"{record.bytes} bytes", f"{path.stat().st_size} bytes")


def _check(path: Path, record: FileRecord) -> None:
    _check_size(path, record)
    if sha256(path) != record.sha256:
        raise damaged(path, f"SHA-256 {record.sha256[:16]}...", "other contents")


def damaged(path: Path, expected: Any, got: Any) -> UserError:
    """The error for a checkpoint that is not what was written."""
    return UserError(WHAT, where=path, expected=expected, got=got, fix=FIX)
