"""Labelled data from files and hub data sets: whole, in parts, or divided into splits."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.arrow import read_hub, read_parquet
from jaxssl.data.tables.config import TableFile, TableHub, TableSplits
from jaxssl.data.tables.conll import read_conll
from jaxssl.data.tables.conllu import read_conllu
from jaxssl.data.tables.delimited import read_delimited
from jaxssl.data.tables.json_file import read_json
from jaxssl.data.tables.jsonl import read_jsonl, read_lines
from jaxssl.data.tables.splits import few, hold_out, hold_out_groups
from jaxssl.data.tables.squad import read_squad
from jaxssl.data.tables.table import Note, Table, join, say


def read_table(config: TableFile | TableHub, note: Note = say) -> Table:
    """All rows of a file or a hub data set.

    Of a CoNLL file, a row is a sentence and each column holds a list of strings for each row; of
    CoNLL-U, the columns have the format's names, but the forms are `words`. Of a
    SQuAD file, the columns are id, title, question, context and answers: {"text": [...],
    "answer_start": [...]}, with empty lists where the question has no answer and null where the
    file does not give any. A key that a line of jsonl leaves out is null in that row.

    Args:
      config: what to read.
      note: told of rows left out.

    Raises:
      UserError: what cannot be read, with its line; or no rows.
    """
    if isinstance(config, TableHub):
        return read_hub(config)
    tables = list(read_files(config, note))
    if len(tables) == 1:
        return tables[0]
    is_one_file = len({table.source for table in tables}) == 1
    return join(tables, tables[0].source if is_one_file else config.path)


def read_chunks(config: TableFile, rows: int, note: Note = say) -> Iterator[Table]:
    """The rows of `read_table` in tables of at most `rows`, in memory that does not grow with the
    file: but JSON that is not lines is read whole, and parquet by its row groups.

    A column that jsonl first has in a later table is not in those before.

    Raises:
      UserError: as `read_table`, when the reader gets there.
    """
    return read_files(config, note, rows)


def read_splits(
    config: TableSplits,
    label_column: str | None,
    note: Note = say,
    *,
    columns: Mapping[str, str] | None = None,
    has_classes: bool = True,
    draw: int = 0,
) -> dict[str, Table]:
    """The splits "train", "validation" and "test", those that are given or held out.

    Args:
      config: what to read and how much to hold out.
      label_column: must be in every split, and is what `stratify` goes by; None for neither.
      has_classes: whether its values are few, so that held-out rows are balanced by them unless
        `config.stratify` says otherwise.
      note: told of what was held out and of labels too rare for it.
      columns: what else must be in every split, by the recipe's keys.
      draw: the seed of `config.per_label`.

    Raises:
      UserError: see `read_table`; a split without rows, or labels that cannot be stratified by.
    """
    given = {"train": config.train, "validation": config.validation, "test": config.test}
    tables = {name: read_table(c, note) for name, c in given.items() if c is not None}
    if columns is None:
        columns = {} if label_column is None else {"label_column": label_column}
    for table in tables.values():
        table.check(columns)
    fractions = {
        "test": config.test_fraction,
        "validation": 0.0 if config.validation is not None else config.validation_fraction,
    }
    stratify = False if config.stratify is None and not has_classes else config.stratify
    if any(fractions.values()) and config.split_by is not None:
        tables |= hold_out_groups(tables["train"], fractions, config.seed, config.split_by, note)
    elif any(fractions.values()):
        tables |= hold_out(tables["train"], fractions, config.seed, label_column, stratify, note)
    if config.per_label is not None:
        tables["train"] = few(tables["train"], config.per_label, draw, label_column, note)
    return {name: tables[name] for name in given if name in tables}


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
        "conllu": read_conllu,
        "json": read_json,
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


def _as_pattern(path: Path) -> str:
    """A path as a glob, in which folders that are there under the very name that was given stand
    for themselves: `data [v2]/*.csv`."""
    place, parts = Path(), []
    for part in path.parts:
        place /= part
        parts.append(glob.escape(part) if os.path.lexists(place) else part)
    return os.path.join(*parts) if parts else ""


def file_paths(pattern: str) -> list[str]:
    """The file of this name, or those of the glob; a `UserError` if there is none."""
    path = Path(pattern)
    if path.is_file():
        return [pattern]
    found = sorted(p for p in glob.glob(_as_pattern(path), recursive=True) if Path(p).is_file())
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
