"""What a corpus held when something was made of it, and whether it still does.

A file is known by its name below the path that was asked for and by its whole content. Its size and
time only spare reading again what is unchanged: a corpus that was moved, copied or touched is the
same, and one with another byte is not.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json_lines
from jaxssl.core.progress import bar, tell
from jaxssl.data.corpus.docstrings import installed
from jaxssl.data.corpus.files import SourceFile, open_stored
from jaxssl.data.corpus.sources import Docstrings, SourceConfig

CONTENTS = "inputs.jsonl"
THREADS = 8
SAME_TICK_NS = 2_000_000_000
"""A file may change twice within a clock's tick (2 s at most, on FAT) and show one time."""
INSTALLED = "installed packages"


@dataclasses.dataclass(frozen=True)
class Content:
    """One file of a corpus as it was found.

    `source` is the number of the source that names it; `time` its mtime in ns (None at a URL).
    """

    source: int
    file: str
    bytes: int
    sha256: str
    time: int | None = None

    @property
    def place(self) -> tuple[int, str]:
        return self.source, self.file


def read_contents(
    sources: Sequence[SourceConfig], known: Iterable[Content] = (), known_at: int = 0
) -> list[Content]:
    """The contents of all files that `sources` name, in order.

    Args:
      known: contents that were read before; a file of the same name, size and time is not read.
      known_at: when they were noted, in ns: what changed just before is read again.
    """
    spared: dict[tuple, str] = {(c.place, c.bytes, c.time): c.sha256 for c in known}
    files = [(i, file) for i, source in enumerate(sources) for file in source.inputs()]

    def read(numbered: tuple[int, SourceFile]) -> Content:
        i, file = numbered
        time = None if "://" in file.path else os.stat(file.path).st_mtime_ns
        found = Content(i, file.id, file.size, "", time)
        sha256 = spared.get((found.place, found.bytes, found.time))
        if sha256 is None or time is None or time + SAME_TICK_NS > known_at:
            sha256 = _sha256(file)
        progress.update(file.size)
        return dataclasses.replace(found, sha256=sha256)

    total = sum(file.size for _, file in files)
    with (
        ThreadPoolExecutor(THREADS) as pool,
        bar(total=total, description="checksums", unit="B", enabled=total > 64 << 20) as progress,
    ):
        contents = list(pool.map(read, files))
    for i, source in enumerate(sources):
        if isinstance(source, Docstrings):
            contents.append(Content(i, INSTALLED, *installed(source.packages)))
    return contents


def _sha256(file: SourceFile) -> str:
    try:
        with open_stored(file) as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:  # a reader sets aside what cannot be opened, and says so
        return type(error).__name__


def write_contents(path: Path, contents: Iterable[Content]) -> None:
    with atomic_write(path) as file:
        for content in contents:
            file.write(json.dumps(dataclasses.asdict(content), ensure_ascii=False) + "\n")


def load_contents(path: Path) -> list[Content]:
    """What `write_contents` wrote.

    Raises:
      UserError: the file is damaged.
    """
    return read_json_lines(
        path,
        Content,
        what="the list of a corpus's files is damaged",
        fix=f"delete {path.parent} to make it anew",
    )


def check_unchanged(path: Path, sources: Sequence[SourceConfig], what: str) -> None:
    """Refuses a corpus that is no longer what `path` notes; installed packages are only told.

    Args:
      path: what `write_contents` wrote; if it is not there, that is told.
      what: what was made of the corpus, for the error ("token store").

    Raises:
      UserError: files were edited, added or removed; it names the first.
    """
    if not path.is_file():
        tell(
            f"warning: {path.parent}: whether the corpus has changed cannot be seen: this {what} "
            "was made by a version that did not note what the corpus holds"
        )
        return
    before = load_contents(path)
    now = read_contents(sources, before, path.stat().st_mtime_ns)
    installed_before, before = _parted(before)
    installed_now, now = _parted(now)
    changes = _changes(before, now)
    if changes:
        raise UserError(
            f"the corpus has changed since this {what} was begun",
            where=path.parent,
            expected=f"the {len(before):,} files that it was begun with",
            got=changes,
            fix=f"choose another `out`, or delete this directory to make the {what} anew",
        )
    if installed_before != installed_now:
        tell(
            f"warning: {path.parent}: the installed packages have changed since this {what} was "
            "begun; it holds the docstrings of then. Delete it to make it anew"
        )


def _parted(contents: Iterable[Content]) -> tuple[list[Content], list[Content]]:
    """Those of installed packages, and those of files."""
    parts: tuple[list[Content], list[Content]] = ([], [])
    for content in contents:
        parts[content.file != INSTALLED].append(dataclasses.replace(content, time=None))
    return parts


def _changes(before: list[Content], now: list[Content]) -> str:
    """What is different, in words; nothing if nothing is."""
    if before == now:
        return ""
    # Two files may have one place: `paths` may name two folders with an `a.txt` each.
    gone, come = Counter(before) - Counter(now), Counter(now) - Counter(before)
    places = {content.place for content in gone} & {content.place for content in come}
    changed = {
        "edited": sorted({c.file for c in come if c.place in places}),
        "added": sorted({c.file for c in come if c.place not in places}),
        "removed": sorted({c.file for c in gone if c.place not in places}),
    }
    told = [f"{len(names):,} {kind} ({_first(names)})" for kind, names in changed.items() if names]
    return ", ".join(told) or "the same files in another order"


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
