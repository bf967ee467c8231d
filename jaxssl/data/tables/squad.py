"""Reader of question answering data in the format of SQuAD 1.1 and 2.0."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.lines import read_document
from jaxssl.data.tables.table import Table, in_parts

COLUMNS = ("id", "title", "question", "context", "answers")
Question = tuple[str, tuple]
"""Its place, and its values of `COLUMNS`."""
_KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}


def read_squad(path: str, config: TableFile, rows: int | None = None) -> Iterator[Table]:
    """One row a question, in tables of at most `rows`. Answers are empty lists if it has none, None
    if the file gives none."""
    return squad_tables(_load(path, config), path, rows)


def squad_tables(data: Any, path: str, rows: int | None) -> Iterator[Table]:
    """`read_squad` of the parsed file."""
    for part in in_parts(_with_own_ids(_questions(data, path)), rows):
        columns = {name: [row[i] for _, row in part] for i, name in enumerate(COLUMNS)}
        yield Table(columns, [place for place, _ in part], path)


def _with_own_ids(questions: Iterable[Question]) -> Iterator[Question]:
    """The questions; one with the id of another is refused."""
    seen: dict[str, str] = {}
    for place, row in questions:
        if row[0] in seen:
            raise UserError(
                "two questions have the same id",
                where=place,
                expected="an id of its own",
                got=f"{row[0]!r}, which {seen[row[0]]} has",
            )
        seen[row[0]] = place
        yield place, row


def _load(path: str, config: TableFile) -> Any:
    text = read_document(path, config.encoding)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(
            "a file that is not JSON",
            where=f"{path}:{line}",
            expected='SQuAD json: {"data": [{"paragraphs": [...]}]}',
            got=(str(error) or type(error).__name__) if text.strip() else "an empty file",
            fix="if the file has one object a line, set format=jsonl",
        ) from None


def _questions(data: Any, path: str) -> Iterator[Question]:
    for article, at in _items(_typed(data, dict, path, ""), "data", path, ""):
        title = _get(article, "title", str, path, at) if "title" in article else ""
        for paragraph, inside in _items(article, "paragraphs", path, at):
            context = _get(paragraph, "context", str, path, inside)
            for entry, place in _items(paragraph, "qas", path, inside):
                name = entry.get("id")
                name = str(name) if type(name) is int else _get(entry, "id", str, path, place)
                question = _get(entry, "question", str, path, place)
                answers = _answers(entry, path, place)
                yield f"{path}: {place}", (name, title, question, context, answers)


def _answers(entry: dict, path: str, place: str) -> dict[str, list] | None:
    if "answers" not in entry:
        return None
    answers = [
        (_get(a, "text", str, path, at), _get(a, "answer_start", int, path, at))
        for a, at in _items(entry, "answers", path, place)
    ]
    if entry.get("is_impossible") and answers:
        raise UserError(
            "a question that is marked impossible has answers",
            where=f"{path}: {place}",
            expected="is_impossible=false, or an empty list of answers",
            got=f"{len(answers)} answers",
        )
    return {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}


def _items(node: dict, key: str, path: str, place: str) -> Iterator[tuple[dict, str]]:
    """The objects in the list `node[key]`, and where each is."""
    at = f"{place}.{key}" if place else key
    for i, item in enumerate(_get(node, key, list, path, place)):
        yield _typed(item, dict, path, f"{at}[{i}]"), f"{at}[{i}]"


def _get(node: dict, key: str, kind: type, path: str, place: str) -> Any:
    if key not in node:
        raise UserError(
            "json without a key that SQuAD's has",
            where=f"{path}: {place}" if place else path,
            expected=f"the key {key!r}, {_KINDS[kind]}",
            got="the keys " + (", ".join(map(repr, list(node)[:8])) or "of an empty object"),
            fix=did_you_mean(key, node) or "set format=json if this is not SQuAD's format",
        )
    return _typed(node[key], kind, path, f"{place}.{key}" if place else key)


def _typed(value: Any, kind: type, path: str, place: str) -> Any:
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise UserError(
        "json of another shape than SQuAD's",
        where=f"{path}: {place}" if place else path,
        expected=_KINDS[kind],
        got=_KINDS.get(type(value)) or repr(value)[:80],
        fix=None if place else "set format=json if this is not SQuAD's format",
    )
