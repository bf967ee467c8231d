"""Reader of JSON that is not lines: a list of rows, an object that holds one, an object of columns,
objects one after another, and SQuAD's format. The file is read whole."""

import json
from collections.abc import Iterator
from typing import Any

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.blanks import BLANKS
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.lines import read_document
from jaxssl.data.tables.squad import squad_tables
from jaxssl.data.tables.table import Table

SHAPES = (
    'a list of objects, [{"text": "a"}, ...]; an object with one such list, {"data": [...]}; or an '
    'object of columns, {"text": ["a", ...]}'
)


def read_json(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """The rows of a document, whatever its shape, in tables of at most `rows`."""
    documents = _documents(read_document(path, config.encoding), path)
    if len(documents) > 1:
        table = _records([value for _, value in documents], [p for p, _ in documents], path)
    elif config.records is None and _is_squad(documents[0][1]):
        yield from squad_tables(documents[0][1], path, rows)
        return
    else:
        table = _one_document(documents[0][1], path, config.records)
    size = rows or max(1, len(table))
    for start in range(0, len(table), size):
        yield table.select(range(start, min(start + size, len(table))))


def _documents(text: str, path: str) -> list[tuple[str, Any]]:
    """The values of a text, one after another, and where each starts."""
    decoder, found, at, line = json.JSONDecoder(), [], 0, 1
    while True:
        start = _next(text, at)
        line += text.count("\n", at, start)
        if start == len(text) and found:
            return found
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            line += text.count("\n", start, getattr(error, "pos", start))
            raise UserError(
                "a file that is not JSON",
                where=f"{path}:{line}",
                expected=SHAPES,
                got=(str(error) or type(error).__name__) if text.strip() else "an empty file",
                fix="set format to what the file is",
            ) from None
        found.append((f"{path}:{line}", value))
        line += text.count("\n", start, at)


def _next(text: str, at: int) -> int:
    """Where the next character is that is no blank."""
    while at < len(text) and text[at] in BLANKS:
        at += 1
    return at


def _is_squad(value: Any) -> bool:
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def _one_document(value: Any, path: str, key: str | None) -> Table:
    if key is not None:
        return _listed(_at(value, key, path), path, key)
    if isinstance(value, list):
        return _listed(value, path, "")
    if isinstance(value, dict):
        columns = _columns(value)
        if columns is not None:
            return _of_columns(columns, path)
        rows = _rows_by_index(value)
        if rows is not None:
            return _records(rows, [f"{path}: {name}" for name in value], path)
        lists = dict(_lists(value, ""))
        if len(lists) > 1:
            names = ", ".join(map(repr, lists))
            raise _shape(
                path, "several lists of objects", names, f"set records={next(iter(lists))}"
            )
        if lists:
            ((name, found),) = lists.items()
            return _listed(found, path, name)
        if value and not all(isinstance(x, dict) for x in value.values()):
            _check_lengths(value, path)
            return _records([value], [f"{path}:1"], path)
    raise _shape(path, "no table", _described(value), "write one object a line, as .jsonl")


def _lists(value: dict, prefix: str) -> Iterator[tuple[str, list]]:
    """The lists of objects in an object, by their keys; a.b is within a."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _lists(inner, f"{prefix}{name}.")
        elif isinstance(inner, list) and inner and all(isinstance(x, dict) for x in inner):
            yield f"{prefix}{name}", inner


def _at(value: Any, key: str, path: str) -> Any:
    """What lies under a key, or under a.b."""
    if isinstance(value, dict) and key in value:
        return value[key]
    name, dot, rest = key.partition(".")
    if dot and isinstance(value, dict) and name in value:
        return _at(value[name], rest, path)
    known = list(value) if isinstance(value, dict) else []
    raise UserError(
        "json without the list of rows",
        where=path,
        expected=f"the key {key!r}, as records says",
        got=_described(value),
        fix=did_you_mean(key, known),
    )


def _listed(rows: Any, path: str, name: str) -> Table:
    """The table of a list of objects, which lies under `name`."""
    if not isinstance(rows, list):
        raise _shape(f"{path}: {name}", "no list", _described(rows), None)
    return _records(rows, [f"{path}: {name}[{i}]" for i in range(len(rows))], path)


def _records(rows: list, places: list[str], path: str) -> Table:
    """A key that an object lacks is None there."""
    for row, place in zip(rows, places):
        if not isinstance(row, dict):
            raise UserError(
                "a row that is not a JSON object",
                where=place,
                expected='an object, such as {"text": "a"}',
                got=_described(row),
                fix="""for a list of texts: jq -c '.[] | {text: .}' FILE > FILE.jsonl"""
                if isinstance(row, str)
                else None,
            )
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(columns, places, path)


def _columns(value: dict) -> dict[str, list] | None:
    """The columns of an object of lists of equal length, or of what pandas writes: an object of
    values by row number for each column."""
    inner = list(value.values())
    if inner and all(isinstance(x, list) for x in inner):
        of_rows = len(inner) == 1 and inner[0] and all(isinstance(x, dict) for x in inner[0])
        return value if len(set(map(len, inner))) == 1 and not of_rows else None
    if _is_numbered(inner) and not all(map(str.isdigit, value)):
        return {name: list(column.values()) for name, column in value.items()}
    return None


def _is_numbered(columns: list) -> bool:
    """Whether all are objects with the same numbers for keys."""
    if not columns or not all(isinstance(x, dict) for x in columns):
        return False
    first = list(columns[0])
    return bool(first) and all(map(str.isdigit, first)) and all(list(x) == first for x in columns)


def _rows_by_index(value: dict) -> list | None:
    """The rows of an object of them, by their numbers."""
    rows = list(value.values())
    is_rows = rows and all(isinstance(x, dict) for x in rows) and all(map(str.isdigit, value))
    return rows if is_rows else None


def _of_columns(columns: dict[str, list], path: str) -> Table:
    count = len(next(iter(columns.values())))
    return Table(dict(columns), [f"{path}: row {i}" for i in range(count)], path)


def _check_lengths(value: dict, path: str) -> None:
    """Refuses columns of different lengths: one object would be one row."""
    if all(isinstance(x, list) for x in value.values()):
        lengths = ", ".join(f"{name}: {len(x)}" for name, x in list(value.items())[:8])
        raise _shape(path, "columns of different lengths", lengths, None)


def _shape(where: str, what: str, got: str, fix: str | None) -> UserError:
    return UserError(f"json with {what}", where=where, expected=SHAPES, got=got, fix=fix)


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "an object with " + (", ".join(map(repr, list(value)[:8])) or "nothing in it")
    return "a list" if isinstance(value, list) else repr(value)[:80]
