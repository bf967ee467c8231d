"""The lines of a text file with labelled data, packed or not, and where each is."""

from collections.abc import Iterator
from pathlib import Path

from jaxssl.core import progress
from jaxssl.core.errors import UserError
from jaxssl.data.corpus.files import SourceFile, open_file

LARGE_BYTES = 64 << 20
"""Reading a larger file shows a progress bar."""


class Lines:
    """The decoded lines of a file, ends kept; `number` is that of the latest, from 1.

    Only a line feed ends a line: other characters that Unicode counts as line ends occur in texts.
    """

    def __init__(self, path: str, encoding: str):
        self.path, self.number = path, 0
        self.encoding = encoding
        size = Path(path).stat().st_size
        try:
            self._file = open_file(SourceFile(path, path, size))
        except (OSError, ValueError, ImportError) as error:
            raise unreadable(path, error) from error
        large = size > LARGE_BYTES
        self._lines = iter(progress.bar(self._file, description=path, unit="line", enabled=large))

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[str]:
        return self

    @property
    def place(self) -> str:
        return f"{self.path}:{self.number}"

    def __next__(self) -> str:
        try:
            raw = next(self._lines)
        except StopIteration:
            raise
        except Exception as error:  # a damaged archive: each unpacker has errors of its own
            raise unreadable(f"{self.path}, after line {self.number}", error) from error
        self.number += 1
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


def unreadable(where: str, error: Exception) -> UserError:
    return UserError(
        "a file of labelled data cannot be read",
        where=where,
        expected="a whole file, packed as its name says",
        got=f"{type(error).__name__}: {error}",
    )
