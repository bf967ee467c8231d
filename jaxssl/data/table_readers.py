"""Readers of labelled data by format: jsonl, parquet, CoNLL columns and hub data sets."""

import glob
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.table_config import TableFile, TableHub
from jaxssl.data.table_delimited import read_delimited
from jaxssl.data.table_lines import Lines
from jaxssl.data.table_squad import read_squad
from jaxssl.data.tables import Note, Table

DOCUMENT_START = "-DOCSTART-"
_BLANKS = " \t\r\n"


def read_files(config: TableFile, note: Note) -> Table:
    """The rows of the file that `config.path` names, or of the several of a glob."""
    tables = [_read_file(path, config, note) for path in _paths(config.path)]
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables[1:]:
        if set(table.columns) != set(first.columns):
            raise UserError(
                "files of one table have different columns",
                where=table.source,
                expected=f"{', '.join(first.columns)} (as in {first.source})",
                got=", ".join(table.columns),
            )
    columns = {name: [v for table in tables for v in table.columns[name]] for name in first.columns}
    return Table(columns, [place for table in tables for place in table.places], config.path)


def _read_file(path: str, config: TableFile, note: Note) -> Table:
    if config.kind in ("csv", "tsv"):
        table = read_delimited(path, config, note)
    else:
        readers: dict[str, Callable[[str, TableFile], Table]] = {
            "jsonl": read_jsonl,
            "parquet": read_parquet,
            "conll": read_conll,
            "squad": read_squad,
        }
        table = readers[config.kind](path, config)
    if not len(table):
        raise UserError(
            "a table without rows", where=path, expected="at least one row of data", got="none"
        )
    return table


def _paths(pattern: str) -> list[str]:
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


# --- jsonl and parquet ----------------------------------------------------------------------


def read_jsonl(path: str, config: TableFile) -> Table:
    """One object a line; blank lines are left out, and a key that a line lacks is None."""
    rows: list[dict] = []
    places: list[str] = []
    with Lines(path, config.encoding) as lines:
        for line in lines:
            if line.strip(_BLANKS):
                rows.append(_json_object(line, lines.place))
                places.append(lines.place)
    names = dict.fromkeys(key for row in rows for key in row)
    return Table({name: [row.get(name) for row in rows] for name in names}, places, path)


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


def read_parquet(path: str, config: TableFile) -> Table:
    """A parquet file; class labels that its metadata (written by `datasets`) names get names."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        # Opened here: given a path, pyarrow would read a folder or guess at partitions.
        with open(path, "rb") as opened:
            table = pyarrow.parquet.read_table(opened)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(
            "a file that is not parquet",
            where=path,
            expected="a parquet file, whole",
            got=" ".join(str(error).split())[:200],
            fix="set format to what the file is",
        ) from error
    columns = dict(zip(table.column_names, (column.to_pylist() for column in table.columns)))
    if not config.class_ids and b"huggingface" in (table.schema.metadata or {}):
        features = datasets.Features.from_arrow_schema(table.schema)
        columns = {name: name_classes(values, features[name]) for name, values in columns.items()}
    return Table(columns, [f"{path} row {i}" for i in range(table.num_rows)], path)


# --- CoNLL columns --------------------------------------------------------------------------


def read_conll(path: str, config: TableFile) -> Table:
    """One token a line and a blank line after each sentence; `-DOCSTART-` lines are left out."""
    columns: dict[str, list[list[str]]] = {name: [] for name in config.positions}
    places: list[str] = []
    width, new = 0, True
    with Lines(path, config.encoding) as lines:
        for line in lines:
            fields = _fields(line, config.delimiter)
            if not fields or fields[0] == DOCUMENT_START:
                new = True
                continue
            if config.comment_prefix and line.startswith(config.comment_prefix):
                continue
            width = width or _check_positions(len(fields), config.positions, lines.place)
            if len(fields) != width:
                raise _ragged_token(lines.place, width, fields)
            if new:
                places.append(lines.place)
                for sentences in columns.values():
                    sentences.append([])
                new = False
            for name, position in config.positions.items():
                columns[name][-1].append(fields[position])
    return Table(dict(columns), places, path)


def _fields(line: str, delimiter: str | None) -> list[str]:
    """The line's values; none if it is blank, by ASCII: a token may be a Unicode space."""
    text = line.strip(_BLANKS)
    if not text:
        return []
    return line.rstrip("\r\n").split(delimiter) if delimiter else re.split("[ \t]+", text)


def _check_positions(width: int, positions: dict[str, int], place: str) -> int:
    """`width` if the positions are columns of their own among so many."""
    resolved = [p + width if p < 0 else p for p in positions.values()]
    inside = all(0 <= p < width for p in resolved)
    if inside and len(set(resolved)) == len(resolved):
        return width
    raise UserError(
        "a position is beyond the columns of the file"
        if not inside
        else "two names stand for one column",
        where=f"positions, {place}",
        expected=f"different positions from 0 to {width - 1}, or from the end: -1 to {-width}",
        got=", ".join(f"{name}: {p}" for name, p in positions.items()),
        fix="check positions and delimiter",
    )


def _ragged_token(place: str, width: int, fields: list[str]) -> UserError:
    return UserError(
        f"a token with too {'few' if len(fields) < width else 'many'} columns",
        where=place,
        expected=f"{width} columns, as in the lines before",
        got=f"{len(fields)}: {' '.join(fields)}"[:200],
        fix='check delimiter (delimiter="\\t" lets words hold spaces) and comment_prefix',
    )


# --- Hub data sets --------------------------------------------------------------------------


def read_hub(config: TableHub) -> Table:
    """A split of a hub data set, or of a local folder of one."""
    import datasets

    if config.revision is not None and Path(config.dataset).exists():
        raise UserError(
            "a local folder has no revisions",
            where="revision",
            expected=f"null, for the folder {config.dataset}",
            got=config.revision,
        )
    subset = f" ({config.config})" if config.config else ""
    source = f"{config.dataset}{subset}, split {config.split}"
    try:
        found = datasets.load_dataset(
            config.dataset,
            name=config.config,
            split=config.split,
            revision=config.revision,
        )
        assert isinstance(found, datasets.Dataset)
        columns: dict[str, Any] = dict(found[:])
    except Exception as error:  # `datasets` raises whatever its loaders raise
        raise UserError(
            "a hub data set cannot be read",
            where=source + (f", revision {config.revision}" if config.revision else ""),
            expected="a data set, configuration, split and revision that exist",
            got=f"{type(error).__name__}: {error}",
            fix="check dataset, config, split and revision; without a network, use files",
        ) from error
    if not len(found):
        raise UserError("a table without rows", where=source, expected="rows", got="none")
    if not config.class_ids:
        columns = {n: name_classes(values, found.features[n]) for n, values in columns.items()}
    return Table(columns, [f"{source} row {i}" for i in range(len(found))], source)


def name_classes(values: Iterable, feature: Any) -> list:
    """Numbers of classes as their names, -1 as None, also in lists; other values as they are."""
    import datasets

    if isinstance(feature, datasets.ClassLabel) and feature.names:
        names = feature.names
        return [None if value is None or value < 0 else names[value] for value in values]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return [value if value is None else name_classes(value, inner) for value in values]
    return list(values)
