"""JSON that is not lines: every shape gives the rows it holds, or an error whose advice works."""

import json

import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.inputs import input_file
from jaxssl.data.tables.read import read_chunks, read_table

ROWS = [
    {"text": "a [b]", "label": "x", "tags": ["O", "B"]},
    {"text": "c\n{d}", "label": "y", "tags": []},
    {"text": "\u2028e", "label": "x", "tags": ["O"]},
]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
BY_NUMBER = {name: {str(i): x for i, x in enumerate(values)} for name, values in COLUMNS.items()}
SHAPES = {
    "list": ROWS,
    "data": {"data": ROWS},
    "another key": {"version": "1.0", "count": 3, "examples": ROWS, "note": {"by": "me"}},
    "nested": {"train": {"rows": ROWS}},
    "columns": COLUMNS,
    "columns of pandas": BY_NUMBER,
    "rows of pandas": {str(i): row for i, row in enumerate(ROWS)},
}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_gives_the_rows(tmp_path, shape, indent):
    path = write(tmp_path / "t.json", json.dumps(SHAPES[shape], indent=indent, ensure_ascii=False))
    table = read_table(TableFile(path=path))
    assert table.columns == COLUMNS and len(set(table.places)) == 3
    assert [len(part) for part in read_chunks(TableFile(path=path), 2)] == [2, 1]


@pytest.mark.parametrize("orient", ["records", "columns", "index"])
def test_what_pandas_writes_is_read(tmp_path, orient):
    import pandas

    pandas.DataFrame(ROWS).to_json(tmp_path / "t.json", orient=orient)
    assert read_table(TableFile(path=str(tmp_path / "t.json"))).columns == COLUMNS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_objects_one_after_another_are_rows(tmp_path, ending, indent):
    text = "\n\n".join(json.dumps(row, indent=indent) for row in ROWS) + "\n"
    path = write(tmp_path / f"t.{ending}", text)
    table = read_table(TableFile(path=path, format="json"))
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines, 1) if line.startswith("{")]
    assert table.columns == COLUMNS and table.places == [f"{path}:{n}" for n in starts]


@pytest.mark.parametrize("shape", [*SHAPES, "objects"])
def test_the_advice_for_json_that_is_not_lines_works(tmp_path, shape):
    value = "\n".join(json.dumps(x, indent=1) for x in ROWS)
    path = write(
        tmp_path / "t.jsonl", json.dumps(SHAPES[shape], indent=1) if shape in SHAPES else value
    )
    with pytest.raises(UserError, match="not a JSON object") as error:
        read_table(TableFile(path=path))
    advice = str(error.value.fix).split()[1]
    assert read_table(input_file(path, options=[advice])).columns == COLUMNS


def test_of_several_lists_one_is_named_as_the_error_says(tmp_path):
    splits = {"train": ROWS, "dev": {"rows": ROWS[:1]}}
    path = write(tmp_path / "t.json", json.dumps(splits))
    with pytest.raises(UserError, match="several lists of objects") as error:
        read_table(TableFile(path=path))
    assert error.value.got == "'train', 'dev.rows'"
    advice = str(error.value.fix).removeprefix("set ")
    assert read_table(input_file(path, options=[advice])).columns == COLUMNS
    assert len(read_table(TableFile(path=path, records="dev.rows"))) == 1


def test_one_object_of_values_is_one_row(tmp_path):
    path = write(tmp_path / "t.json", json.dumps(ROWS[0], indent=2))
    assert read_table(TableFile(path=path)).columns == {n: [v] for n, v in ROWS[0].items()}


def test_a_key_that_an_object_lacks_is_none(tmp_path):
    path = write(tmp_path / "t.json", '[{"a": 1}, {"b": 2}]')
    assert read_table(TableFile(path=path)).columns == {"a": [1, None], "b": [None, 2]}


WRONG = [
    ("", "not JSON", ":1"),
    ("[1, 2", "not JSON", ":1"),
    ('{"a": 1}\n{"a": \n}', "not JSON", ":3"),
    ("[" * 100_000, "not JSON", ":1"),
    ("3", "no table", ""),
    ("{}", "no table", ""),
    ("[]", "without rows", ""),
    ('{"data": []}', "without rows", ""),
    ('[{"a": 1}, "b"]', "not a JSON object", ": [1]"),
    ('{"a": 1}\n[2]', "not a JSON object", ":2"),
    ('{"a": ["x", "y"], "b": ["z"]}', "different lengths", ""),
    ('{"a": {"x": 1}}', "no table", ""),
]


@pytest.mark.parametrize(("text", "message", "where"), WRONG)
def test_what_is_no_table_is_told_with_its_place(tmp_path, text, message, where):
    path = write(tmp_path / "t.json", text)
    with pytest.raises(UserError, match=message) as error:
        read_table(TableFile(path=path))
    assert error.value.where == path + where and error.value.expected and error.value.got


def test_a_key_that_is_not_there_is_told(tmp_path):
    path = write(tmp_path / "t.json", json.dumps({"train": ROWS}))
    with pytest.raises(UserError, match="did you mean 'train'"):
        read_table(TableFile(path=path, records="trian"))
    with pytest.raises(UserError, match="no list"):
        read_table(TableFile(path=write(tmp_path / "u.json", '{"a": 1}'), records="a"))
