"""Files and directories that are whole or absent: written beside, fsynced, renamed."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxssl.core import progress
from jaxssl.core.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Opens a temporary sibling of `path`; on success it is fsynced and renamed to `path`.

    After an exception the temporary file is removed and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: on a file system that machines share, two may have the same.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A temporary directory beside `path` that becomes it once all of it is written, or is deleted:
    who is killed half-way leaves nothing under the name, and what it left beside it is deleted by
    the next. `path` may be an empty directory, the current one, or a link to one.

    Raises:
      UserError: something has the name already, or has got it in the meantime; a file system is
        mounted there.
    """
    given, path = path, Path(os.path.realpath(path))
    _refuse_full(Path(given))
    if os.path.ismount(path):
        raise UserError(
            "a directory where a file system is mounted cannot be made anew",
            where=given,
            expected="a new directory",
            got="an empty one where a file system is mounted",
            fix=f"give a directory in it: {Path(given) / 'new'}",
        )
    _delete_abandoned(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:16]}.tmp")
    temporary.mkdir(parents=True)
    mine = _locked(temporary)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
        _refuse_full(path)
        is_current = path.is_dir() and path.samefile(os.curdir)
        os.replace(temporary, path)
        if is_current:  # it is gone, and so would be all that is relative to it
            os.chdir(path)
            progress.tell(f"{path} was made anew: `cd .` shows what is in it")
        fsync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if mine is not None:
            os.close(mine)


def _delete_abandoned(path: Path) -> None:
    """Deletes what killed makers of `path` have left: nobody holds its lock."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    for left in beside:
        if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp", left.name):
            if left.is_dir() and (lock := _locked(left)) is not None:
                progress.tell(f"{left}: left by a command that was killed; deleted")
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)


def _locked(directory: Path) -> int | None:
    """The descriptor that holds a directory's lock until it is closed or its process ends; None
    where another has it, or the file system has no locks."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _refuse_full(path: Path) -> None:
    if not (path.is_dir() and not any(path.iterdir())):
        refuse_existing(path)


def fsync_directory(directory: Path) -> None:
    """Makes a rename inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SAMPLE_BLOCKS, SAMPLE_BYTES = 4, 16 << 10


def sample_sha256(path: str | Path) -> str:
    """The hex SHA-256 of a file's size and of 4 blocks of 16 KiB, evenly from its start to its end.

    Reads 64 KiB however large the file is: it tells a file of other contents, not a flipped bit.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(f"{size}:".encode())
        last = max(0, size - SAMPLE_BYTES)
        for place in sorted({last * i // (SAMPLE_BLOCKS - 1) for i in range(SAMPLE_BLOCKS)}):
            file.seek(place)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def refuse_existing(path: str | Path) -> None:
    """Refuses to write where something is already.

    Raises:
      UserError: says what is there.
    """
    if Path(path).exists():
        raise UserError(
            "there is something here already",
            where=path,
            expected="a new directory",
            got="a directory" if Path(path).is_dir() else "a file",
            fix="choose another, or delete it",
        )
