"""The seal of a checkpoint: which files it has, how large they are, and their SHA-256.

Orbax does not notice a flipped byte in array data, and a directory that was half copied looks
whole to it. The manifest is written last, so a step without one was never finished.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, sha256

FORMAT = 1
MANIFEST, META = "manifest.json", "meta.json"


class NewerVersion(UserError):
    """The checkpoint is of a format that this version does not know: not the same as damaged."""


def seal(directory: Path, meta: dict[str, Any]) -> None:
    """Writes `meta.json` and then the manifest over every file in `directory`."""
    with atomic_write(directory / META) as file:
        json.dump({"format": FORMAT, **meta}, file, indent=2)
    paths = [p for p in sorted(directory.rglob("*")) if p.is_file() and p.name != MANIFEST]
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        digests = list(pool.map(sha256, paths))
    files = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests)
    }
    with atomic_write(directory / MANIFEST) as file:
        json.dump({"format": FORMAT, "files": files}, file, indent=2)


def is_sealed(directory: Path) -> bool:
    """Whether the step was finished."""
    return (directory / MANIFEST).is_file()


def read_meta(directory: Path) -> dict[str, Any]:
    """The checkpoint's `meta.json`.

    Raises:
      UserError: it is damaged, or was written by a newer version.
    """
    try:
        meta = json.loads((directory / META).read_text())
        found = int(meta["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(directory / META, "a readable meta.json", error) from error
    if found > FORMAT:
        raise NewerVersion(
            "the checkpoint was written by a newer version of jaxssl",
            where=directory,
            expected=f"format {FORMAT} or older",
            got=f"format {found}",
            fix="upgrade jaxssl: pip install -U jaxssl",
        )
    return meta


def verify(directory: Path) -> None:
    """Compares every file with the manifest.

    Raises:
      UserError: names the first file that is missing, truncated or altered.
    """
    try:
        files = dict(json.loads((directory / MANIFEST).read_text())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(directory / MANIFEST, "a readable manifest", error) from error
    for name, record in files.items():
        path = directory / name
        if not path.is_file():
            raise damaged(path, "a file", "none")
        if path.stat().st_size != record["bytes"]:
            raise damaged(path, f"{record['bytes']} bytes", f"{path.stat().st_size} bytes")
    with ThreadPoolExecutor() as pool:
        digests = pool.map(sha256, [directory / name for name in files])
        for (name, record), digest in zip(files.items(), digests):
            if digest != record["sha256"]:
                wanted = f"SHA-256 {record['sha256'][:16]}..."
                raise damaged(directory / name, wanted, "other contents")


def damaged(path: Path, expected: Any, got: Any) -> UserError:
    """The error for a checkpoint that is not what was written."""
    return UserError(
        "a checkpoint is damaged",
        where=path,
        expected=expected,
        got=got,
        fix="copy it again if you have it; training goes on from an older step that is intact, and"
        " other verbs take one with --step",
    )
