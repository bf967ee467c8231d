"""Readers of files with a row a line: jsonl, and plain lines of text."""

import json
from collections.abc import Iterator

from jaxssl.core.errors import UserError
from jaxssl.data.tables.blanks import BLANKS
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.lines import Lines
from jaxssl.data.tables.table import Table, in_parts


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
            fix="set format=json if the file is one list or object, or has objects over many lines",
        )
    return row


def read_lines(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """One text a line, blank lines too: a column of its own."""
    (name,) = config.columns or ("text",)
    with Lines(path, config.encoding) as lines:
        for part in in_parts(((lines.place, line.rstrip("\r\n")) for line in lines), rows):
            yield Table({name: [text for _, text in part]}, [place for place, _ in part], path)
