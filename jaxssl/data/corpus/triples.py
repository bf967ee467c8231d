"""The reader of triples: a subject, a relation and an object a line, as sentences."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datatrove.data import Document

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.corpus.files import SourceFile
from jaxssl.data.corpus.lines import MAX_LINE_BYTES, Line, Lines
from jaxssl.data.corpus.readers import FilesReader, check_text, decode
from jaxssl.data.corpus.template import FIELDS, parsed


class _Run(NamedTuple):
    """Triples of one subject that follow each other, and the offset of the first one's line."""

    subject: str
    offset: int
    triples: list[dict[str, str]]


class TripleReader(FilesReader):
    """One document for the triples of a subject that follow each other; they are one group, too.

    Such a run belongs to the part of the file that holds the start of the last triple before it
    (or the start of the file), so that a task need not look at what comes before its part.

    Args:
      files: of triples.
      template: see `template.parsed`.
      header: whether the first line of each file names its columns.
      marked: whether documents come with the spans of subjects and objects.
    """

    name = "triples"

    def __init__(
        self,
        files: list[SourceFile],
        template: str,
        header: bool,
        marked: bool,
        skipped_to: str | Path | None = None,
    ):
        super().__init__(files, skipped_to)
        self.header, self.marked = header, marked
        self._template = parsed(template)

    def read(self, file: SourceFile, start: int, stop: int | None) -> Iterator[Document]:
        columns = _columns(file) if self.header else (0, 1, 2)
        run: _Run | None = None
        owned, last = start == 0, 0
        for line in Lines(file, start, None):
            if line.is_blank or (self.header and not line.offset):
                continue
            try:
                triple = self._triple(file, line, columns)
            except ValueError as error:
                if stop is None or start <= line.offset < stop:
                    self.skipped.add(file.path, line.number, str(error))
                continue
            if run is None or triple["subject"] != run.subject:
                if run is not None:
                    if owned:
                        yield self._document(file, run)
                    owned = stop is None or last < stop
                    if not owned:
                        return
                run = _Run(triple["subject"], line.offset, [])
            run.triples.append(triple)
            last = line.offset
        if run is not None and owned:
            yield self._document(file, run)

    def _triple(self, file: SourceFile, line: Line, columns: Sequence[int]) -> dict[str, str]:
        """The three parts of a line; a `ValueError` says what is wrong."""
        cells = _cells(file, line)
        if len(cells) <= max(columns) or (len(cells) > 3 and not self.header):
            raise ValueError(f"not a triple: {len(cells)} columns")
        triple = {field: cells[at].strip() for field, at in zip(FIELDS, columns)}
        for field, value in triple.items():
            if not value:
                raise ValueError(f"a triple without {field}")
            check_text(value)
        return {**triple, "relation": triple["relation"].replace("_", " ")}

    def _document(self, file: SourceFile, run: _Run) -> Document:
        """The sentences of a run, one after another."""
        text, spans = "", []
        for triple in run.triples:
            text += " " if text else ""
            for literal, field in self._template:
                text += literal
                if field is not None:
                    if field != "relation":
                        spans.append([len(text), len(text) + len(triple[field])])
                    text += triple[field]
        metadata: dict = {"group": run.subject}
        if self.marked:
            metadata["spans"] = spans
        return Document(text, f"{file.id}:{run.offset}", metadata=metadata)


def _cells(file: SourceFile, line: Line) -> list[str]:
    """The columns of a line."""
    if line.data is None:
        raise ValueError(f"a line of more than {MAX_LINE_BYTES >> 20} MiB")
    text = decode(line.data).rstrip("\r\n")
    if ".csv" not in Path(file.path).suffixes:
        return text.split("\t")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"not a line of CSV: {error}") from None


def _columns(file: SourceFile) -> tuple[int, ...]:
    """Where the header says that the three parts are."""
    first = next(iter(Lines(file, 0, None)), None)
    try:
        names = [] if first is None else [name.strip() for name in _cells(file, first)]
    except ValueError:
        names = []
    for field in FIELDS:
        if field not in names:
            raise UserError(
                "a file of triples has no such column",
                where=file.path,
                expected=f"a first line that names {', '.join(FIELDS)}",
                got=", ".join(names) or "no header",
                fix=did_you_mean(field, names) or "rename the columns, or set header=false",
            )
    return tuple(names.index(field) for field in FIELDS)
