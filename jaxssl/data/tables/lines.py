"""The lines of a text file with labelled data, packed or not, and where each is."""

import functools
from collections.abc import Iterator
from pathlib import Path

from jaxssl.core import progress
from jaxssl.core.errors import UserError
from jaxssl.data.corpus.files import SourceFile, open_file
from jaxssl.data.corpus.lines import MAX_LINE_BYTES

LARGE_BYTES = 64 << 20
"""Reading a larger file shows a progress bar."""
MAX_DOCUMENT_BYTES = 1 << 30
"""Of a file that is read whole: parsed JSON takes about five times as much memory."""


class Lines:
    """The decoded lines of a file, ends kept; `number` is that of the latest, from 1.

    Only a line feed ends a line: other characters that Unicode counts as line ends occur in texts.
    A line of more than `limit` bytes is refused before it is in memory: an archive of some MiB may
    unpack to one of many GiB.
    """

    def __init__(self, path: str, encoding: str, limit: int | None = None):
        self.path, self.number = path, 0
        self.encoding, self._limit = encoding, MAX_LINE_BYTES if limit is None else limit
        self._peeked: str | None = None
        size = Path(path).stat().st_size
        try:
            self._file = open_file(SourceFile(path, path, size))
        except (OSError, ValueError, ImportError) as error:
            raise unreadable(path, error) from error
        large = size > LARGE_BYTES
        raw = iter(functools.partial(self._file.readline, self._limit), b"")
        self._lines = iter(progress.bar(raw, description=path, unit="line", enabled=large))

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return self

    @property
    def place(self) -> str:
        return f"{self.path}:{self.number}"

    def peek(self) -> str:
        """The line that comes next, which stays there; "" at the end."""
        if self._peeked is None:
            self._peeked = next(self, "")
            self.number -= bool(self._peeked)
        return self._peeked

    def __next__(self) -> str:
        if self._peeked:
            line, self._peeked = self._peeked, None
            self.number += 1
            return line
        try:
            raw = next(self._lines)
        except StopIteration:
            raise
        except Exception as error:  # a damaged archive: each unpacker has errors of its own
            raise unreadable(f"{self.path}, after line {self.number}", error) from error
        self.number += 1
        if len(raw) >= self._limit and not raw.endswith(b"\n"):
            raise too_large("line", self.place, self._limit)
        if b"\0" in raw:
            raise UserError(
                "a binary file, not text",
                where=self.place,
                expected=f"text in {self.encoding}",
                got="a NUL byte (UTF-16 has them too)",
                fix="convert UTF-16: iconv -f utf-16 -t utf-8; or set the format the file has",
            )
        try:
            line = raw.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise UserError(
                f"bytes that are not {self.encoding}",
                where=self.place,
                expected=f"text in {self.encoding}",
                got=f"{raw[error.start : error.start + 4]!r} at byte {error.start} of the line",
                fix="set encoding=cp1252 (or what the file is in), or convert it with iconv",
            ) from None
        return line.removeprefix("\ufeff") if self.number == 1 else line


def read_document(path: str, encoding: str) -> str:
    """The text of a file that only makes sense whole.

    Raises:
      UserError: it cannot be read, or has more than `MAX_DOCUMENT_BYTES`.
    """
    size, parts = 0, []
    with Lines(path, encoding, MAX_DOCUMENT_BYTES) as lines:
        for line in lines:
            size += len(line)
            if size > MAX_DOCUMENT_BYTES:
                raise too_large("document", path, MAX_DOCUMENT_BYTES)
            parts.append(line)
    return "".join(parts)


class Size:
    """The size of a row over several lines, which must not grow without end.

    Args:
      what: the row, for the message.
      fix: what to do about one that is too large.
    """

    def __init__(self, what: str, fix: str):
        self._what, self._fix, self._place, self._size = what, fix, "", 0

    def start(self, place: str) -> None:
        """A row begins."""
        self._place, self._size = place, 0

    def add(self, line: str) -> None:
        """It has a line more. Raises UserError if that makes it too large."""
        self._size += len(line)
        if self._size > MAX_LINE_BYTES:
            raise too_large(self._what, self._place, MAX_LINE_BYTES, self._fix)


def too_large(what: str, where: str, limit: int, fix: str | None = None) -> UserError:
    """The error of what is not read into memory."""
    return UserError(
        f"a {what} that is too large to be read",
        where=where,
        expected=f"at most {limit >> 20} MiB",
        got="more",
        fix=fix or "keep the rows as lines of jsonl, or as parquet",
    )


def unreadable(where: str, error: Exception) -> UserError:
    return UserError(
        "a file of labelled data cannot be read",
        where=where,
        expected="a whole file, packed as its name says",
        got=f"{type(error).__name__}: {error}",
    )
