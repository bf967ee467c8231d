"""Sharing files out over tasks by bytes, and reading the lines of one share."""

import codecs
from collections.abc import Iterator, Sequence

from jaxssl.data.corpus.files import SourceFile, open_file

MAX_LINE_BYTES = 16 << 20
"""A longer line is not read into memory."""


def share(
    files: Sequence[SourceFile], rank: int, world_size: int, can_cut: bool = True
) -> Iterator[tuple[SourceFile, int, int | None]]:
    """(file, start, stop) in bytes of what task `rank` reads; `stop` None means to the end.

    The files are one long row of bytes and the task has the `rank`-th of `world_size` equal parts.
    Files that cannot be cut (all, or the compressed ones) go whole to the part they start in.
    """
    total = sum(file.size for file in files)
    low, high = total * rank // world_size, total * (rank + 1) // world_size
    position = 0
    for file in files:
        if can_cut and not file.compressed:
            start, stop = max(low, position), min(high, position + file.size)
            if start < stop:
                yield file, start - position, stop - position
        elif low <= min(position, max(total - 1, 0)) < high:
            yield file, 0, None
        position += file.size


class Line:
    """One line: its first byte's offset in the file and its bytes (None: over the limit)."""

    __slots__ = ("_lines", "data", "index", "offset")

    def __init__(self, lines: "Lines", index: int, offset: int, data: bytes | None):
        self._lines, self.index, self.offset, self.data = lines, index, offset, data

    @property
    def is_blank(self) -> bool:
        return self.data is not None and not self.data.strip()

    @property
    def number(self) -> int:
        """The line's number in the file, from 1. Costs a reading of the file up to the share."""
        return self._lines.lines_before + self.index + 1


class Lines:
    """The lines that start in bytes [start, stop) of a file; a byte-order mark is left out."""

    def __init__(self, file: SourceFile, start: int, stop: int | None):
        self.file, self.start, self.stop = file, start, stop
        self._lines_before: int | None = None

    @property
    def lines_before(self) -> int:
        """How many lines start before `start`."""
        if self._lines_before is None:
            self._lines_before = _count_lines(self.file, self.start)
        return self._lines_before

    def __iter__(self) -> Iterator[Line]:
        with open_file(self.file) as opened:
            offset = 0
            if self.start:
                # The line that holds the byte before the share belongs to whoever has its start.
                opened.seek(self.start - 1)
                offset = self.start - 1 + _read_line(opened)[1]
            index = 0
            while self.stop is None or offset < self.stop:
                data, size = _read_line(opened)
                if not size:
                    return
                if offset == 0 and data is not None:
                    data = data.removeprefix(codecs.BOM_UTF8)
                yield Line(self, index, offset, data)
                offset += size
                index += 1


def _read_line(opened) -> tuple[bytes | None, int]:
    """The next line (None if too long) and its size in bytes, the newline included."""
    data = opened.readline(MAX_LINE_BYTES)
    size = len(data)
    if size < MAX_LINE_BYTES or data.endswith(b"\n"):
        return data, size
    while data and not data.endswith(b"\n"):
        data = opened.readline(MAX_LINE_BYTES)
        size += len(data)
    return None, size


def _count_lines(file: SourceFile, stop: int) -> int:
    """Newlines in the bytes before the first line that starts at or after `stop`."""
    if not stop:
        return 0
    count, left = 0, stop - 1
    with open_file(file) as opened:
        while left and (block := opened.read(min(left, 1 << 20))):
            count += block.count(b"\n")
            left -= len(block)
    return count + 1
