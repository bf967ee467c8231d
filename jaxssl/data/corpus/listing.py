"""Which files a corpus's paths name: one rule for folders, patterns and URLs.

- What exists under the very name that was given is taken, whatever characters the name has.
- A folder stands for all files below it, a pattern (`*`, `?`, `[ab]`, `**` for any folders) for the
  files whose names fit it. Names that start with a dot are left out.
- Links are followed, and each real file is taken once: under its own name if that fits, else under
  the first link to it.
"""

import fnmatch
import glob
import itertools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.files import SourceFile

ANY_FOLDERS = "**"


class Listing(NamedTuple):
    """The files of a corpus, and what a reader of the paths would not expect."""

    files: list[SourceFile]
    notes: list[str]
    """Sentences: what was taken for a pattern, and what lies there and is not read."""


def list_files(paths: Iterable[str], wanted: Callable[[str], bool]) -> Listing:
    """The files that `paths` name: in the order of `paths`, sorted within each, none twice.

    Args:
      paths: files, folders, patterns or fsspec URLs.
      wanted: which names to take from a folder.

    Raises:
      UserError: a path that does not exist or names nothing, or no path at all.
    """
    found: dict[str, SourceFile] = {}
    notes: list[str] = []
    for path in paths:
        files = _list_remote(path, wanted) if "://" in path else _list_local(path, wanted, notes)
        if not files:
            raise _names_nothing(path)
        for place, file in files.items():
            found.setdefault(place, file)
    if not found:
        raise UserError(
            "the corpus has no paths",
            where="source.paths",
            expected="at least one file, folder, pattern or URL",
            got="none",
        )
    return Listing(list(found.values()), notes)


def _names_nothing(path: str) -> UserError:
    if os.path.lexists(path):
        what, got = "a path of the corpus is empty", "no files of this kind in it"
        if os.path.islink(path) and not os.path.exists(path):
            got = f"a link to {os.readlink(path)}, which is not there"
        elif not os.path.isdir(path):
            got = "a device, a pipe or a socket"
    else:
        what = "a path of the corpus names nothing"
        got = "no such file" if _literal_root(path) is None else "a pattern that no file fits"
    return UserError(
        what,
        where=path,
        expected="a file, a folder with files, a pattern or a URL",
        got=got,
        fix="correct source.paths; relative paths start at the current directory",
    )


def _list_local(
    path: str, wanted: Callable[[str], bool], notes: list[str]
) -> dict[str, SourceFile]:
    """Real path -> file, sorted by name."""
    path = str(Path(path))
    if os.path.isfile(path):
        file = SourceFile(path, os.path.basename(path), os.path.getsize(path))
        return {os.path.realpath(path): file}
    if os.path.isdir(path):
        root, parts, walk = path, (ANY_FOLDERS, "*"), _Walk(wanted)
    elif (pattern := _literal_root(path)) is not None and os.path.isdir(pattern[0]):
        root, parts = pattern
        walk = _Walk(lambda name: True)
    else:
        return {}
    found = sorted(walk.run(root, parts).items(), key=lambda item: item[1])
    if found and root != path:
        notes.append(f"{path} is taken as a pattern: {len(found):,} files")
    notes += [f"{path}: {note}" for note in walk.notes()]
    return {
        real: SourceFile(name, Path(os.path.relpath(name, root)).as_posix(), os.path.getsize(name))
        for real, name in found
    }


def _literal_root(path: str) -> tuple[str, tuple[str, ...]] | None:
    """A pattern's beginning that is a folder as it stands, and the parts of the rest; None of a
    path that is no pattern: what looks like one is there under that very name."""
    parts = Path(path).parts
    for i, part in enumerate(parts):
        if glob.has_magic(part) and not os.path.lexists(os.path.join(*parts[: i + 1])):
            return os.path.join(*(parts[:i] or (".",))), _normal(parts[i:])
    return None


def _normal(parts: tuple[str, ...]) -> tuple[str, ...]:
    """`a/**` is `a/**/*`, and `**/**` is `**`."""
    pairs = itertools.pairwise((*parts, "*" if parts[-1] == ANY_FOLDERS else ""))
    kept = [part for part, following in pairs if not part == following == ANY_FOLDERS]
    return (*kept, "*") if parts[-1] == ANY_FOLDERS else tuple(kept)


class _Walk:
    """Finds the files below a folder that fit a pattern.

    Folders that are reached without a link come first. A folder is read once for each part of the
    pattern that it may stand at, so links that lead in circles end.
    """

    def __init__(self, wanted: Callable[[str], bool]):
        self.wanted = wanted
        self.found: dict[str, str] = {}
        """Real path -> the name by which it was reached."""
        self.linked, self.broken, self.special, self.folders = [], [], [], []
        """Names of what is not read, by the reason."""
        self._file_links: list[str] = []

    def run(self, root: str, parts: tuple[str, ...]) -> dict[str, str]:
        """Real path -> name of the files below `root` that fit `parts`."""
        seen: set[tuple[str, tuple[str, ...]]] = set()
        own, linked = deque([(root, parts)]), deque[tuple[str, tuple[str, ...]]]()
        while own or linked:
            is_own = bool(own)
            folder, rest = own.popleft() if is_own else linked.popleft()
            real = os.path.realpath(folder)
            if (real, rest) in seen:
                self.linked.append(folder)
                continue
            seen.add((real, rest))
            for entry, left in self._read(folder, real, rest):
                (linked if entry.is_symlink() else own).append((_joined(folder, entry), left))
        self._take_links()
        return self.found

    def _read(
        self, folder: str, real: str, parts: tuple[str, ...]
    ) -> Iterator[tuple[os.DirEntry, tuple[str, ...]]]:
        """Takes the files in `folder` that fit; yields its folders with what is left to fit."""
        any_folders = parts[0] == ANY_FOLDERS
        name, *rest = parts[any_folders:]
        fits = _fitting(folder, name)
        for entry in _entries(folder):
            if entry.name.startswith(".") and not name.startswith("."):
                continue
            if entry.is_dir():
                if any_folders:
                    yield entry, (ANY_FOLDERS, name, *rest)
                if fits(entry.name) and rest:
                    yield entry, tuple(rest)
                elif fits(entry.name) and not any_folders:
                    self.folders.append(_joined(folder, entry))
            elif not rest and fits(entry.name) and self.wanted(entry.name):
                self._take(_joined(folder, entry), real, entry)

    def _take(self, name: str, folder: str, entry: os.DirEntry) -> None:
        if not entry.is_file():
            (self.special if os.path.exists(name) else self.broken).append(name)
        elif entry.is_symlink():
            self._file_links.append(name)
        else:
            self.found[os.path.join(folder, entry.name)] = name

    def _take_links(self) -> None:
        """Takes the links to files that are not reached under their own name."""
        for name in sorted(self._file_links):
            if self.found.setdefault(os.path.realpath(name), name) != name:
                self.linked.append(name)

    def notes(self) -> Iterator[str]:
        """What lies there and is not read, in sentences."""
        for names, kind in (
            (self.linked, "links to what is read under another name"),
            (self.broken, "links to nothing"),
            (self.special, "devices, pipes or sockets"),
            (self.folders, "folders that fit the pattern (** takes the files below them)"),
        ):
            names = sorted(set(names))
            if names:
                more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
                yield f"not read: {len(names):,} {kind}: {', '.join(names[:3])}{more}"


def _fitting(folder: str, part: str) -> Callable[[str], bool]:
    """Whether a name in `folder` fits this part of a pattern."""
    if not glob.has_magic(part) or os.path.lexists(os.path.join(folder, part)):
        return part.__eq__
    return re.compile(fnmatch.translate(part)).match  # type: ignore[return-value]


def _entries(folder: str) -> list[os.DirEntry]:
    """What lies in `folder`, by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            "a folder of the corpus cannot be read",
            where=folder,
            expected="a folder that may be listed",
            got=error.strerror,
            fix="change its permissions, or leave it out of source.paths",
        ) from error


def _joined(folder: str, entry: os.DirEntry) -> str:
    return entry.name if folder == "." else os.path.join(folder, entry.name)


def _list_remote(path: str, wanted: Callable[[str], bool]) -> dict[str, SourceFile]:
    """URL -> file, sorted by name."""
    from fsspec.core import url_to_fs

    try:
        filesystem, below = url_to_fs(path)
        root = below.rpartition("/")[0]
        if glob.has_magic(below) and not filesystem.exists(below):
            infos = filesystem.glob(below, detail=True)
            root = re.split(r"[*?[]", below)[0].rpartition("/")[0]
        elif filesystem.isdir(below):
            infos = {f: i for f, i in filesystem.find(below, detail=True).items() if wanted(f)}
            root = below.rstrip("/")
        else:
            infos = {below: filesystem.info(below)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, ImportError) as error:
        raise UserError("a URL of the corpus cannot be read", where=path, got=error) from error
    files = (
        SourceFile(filesystem.unstrip_protocol(f), f.removeprefix(root).lstrip("/"), info["size"])
        for f, info in sorted(infos.items())
        if info["type"] == "file"
    )
    return {f.path: f for f in files if len(infos) == 1 or not _is_hidden(f.id)}


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
