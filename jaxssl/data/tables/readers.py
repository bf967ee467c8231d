"""Readers of files of labelled data by format, each a generator of tables."""

import glob
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.arrow import read_parquet
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.conll import read_conll
from jaxssl.data.tables.delimited import read_delimited
from jaxssl.data.tables.lines import BLANKS, Lines
from jaxssl.data.tables.squad import read_squad
from jaxssl.data.tables.table import Note, Table, in_parts


def read_files(config: TableFile, note: Note, rows: int | None = None) -> Iterator[Table]:
    """The rows of the file that `config.path` names, or of the several of a glob.

    Args:
      rows: most of a table; None puts those of a file in one, but for parquet.
    """
    first: Table | None = None
    for path in file_paths(config.path):
        table: Table | None = None
        for table in _read_file(path, config, note, rows):
            if first is not None:
                _check_columns(table, first, so_far=True)
            yield table
        if table is None:
            raise UserError(
                "a table without rows", where=path, expected="at least one row of data", got="none"
            )
        first = first or table
        _check_columns(table, first)


def _read_file(path: str, config: TableFile, note: Note, rows: int | None) -> Iterator[Table]:
    if config.kind in ("csv", "tsv"):
        return read_delimited(path, config, note, rows)
    readers: dict[str, Callable[[str, TableFile, int | None], Iterator[Table]]] = {
        "jsonl": read_jsonl,
        "lines": read_lines,
        "parquet": read_parquet,
        "conll": read_conll,
        "squad": read_squad,
    }
    return readers[config.kind](path, config, rows)


def _check_columns(table: Table, first: Table, so_far: bool = False) -> None:
    """Refuses other columns than those of the first file; `so_far`, some may be still to come."""
    names, known = set(table.columns), set(first.columns)
    if names - known or (known - names and not so_far):
        raise UserError(
            "files of one table have different columns",
            where=table.source,
            expected=f"{', '.join(first.columns)} (as in {first.source})",
            got=", ".join(table.columns),
        )


def file_paths(pattern: str) -> list[str]:
    """The file of this name, or those of the glob; a `UserError` if there is none."""
    path = Path(pattern)
    if path.is_file():
        return [pattern]
    found = sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())
    if found:
        return found
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(
        "a folder where a file of labelled data should be"
        if path.is_dir()
        else "a file of labelled data does not exist",
        where=pattern,
        expected="a file, or a glob of files",
        got="a folder" if path.is_dir() else "no such file",
        fix=f"give {pattern}/*.csv, or name=hub for a folder that `datasets` reads"
        if path.is_dir()
        else did_you_mean(path.name, beside) or "relative paths start at the current directory",
    )


# --- Lines --------------------------------------------------------------------------------------


def read_jsonl(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """One object a line; blank lines are left out, and a key that a line lacks is None.

    A table has the keys of all lines so far.
    """
    names: dict[str, None] = {}
    with Lines(path, config.encoding) as lines:
        objects = (
            (lines.place, _json_object(line, lines.place)) for line in lines if line.strip(BLANKS)
        )
        for part in in_parts(objects, rows):
            names |= dict.fromkeys(key for _, row in part for key in row)
            columns = {name: [row.get(name) for _, row in part] for name in names}
            yield Table(columns, [place for place, _ in part], path)


def _json_object(line: str, place: str) -> dict:
    try:
        row = json.loads(line)
        problem = None if isinstance(row, dict) else f"a JSON {type(row).__name__}"
    except (ValueError, RecursionError) as error:
        row, problem = {}, str(error) or type(error).__name__
    if problem is not None:
        raise UserError(
            "a line that is not a JSON object",
            where=place,
            expected='one object a line: {"text": "...", "label": "..."}',
            got=problem,
            fix="a file that is one list becomes jsonl with: jq -c '.[]' FILE",
        )
    return row


def read_lines(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """One text a line, blank lines too: a column of its own."""
    (name,) = config.columns or ("text",)
    with Lines(path, config.encoding) as lines:
        for part in in_parts(((lines.place, line.rstrip("\r\n")) for line in lines), rows):
            yield Table({name: [text for _, text in part]}, [place for place, _ in part], path)
