"""Rows that are written: what comes back, what is refused, and that a file is whole or absent."""

import csv
import datetime
import decimal
import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.writers import check_output, open_output

NAMES = ("text", "a,b", 'say "x"')
CELL = st.text(',"\t\n\r;\u2028\u00e9\U0001f600 #ab', max_size=8)
VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), CELL).filter(
        lambda value: not isinstance(value, float) or abs(value) < 1e300
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(CELL, inner, max_size=3)),
    max_leaves=5,
)


def rows_of(values):
    row = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, values))
    return st.lists(row, min_size=1, max_size=6)


def write(path, *parts, names=NAMES):
    with open_output(str(path)) as writer:
        for part in parts:
            writer.write(names, part, [f"row {i}" for i in range(len(part))])
    return path.read_bytes().decode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


@settings(max_examples=60, deadline=None)
@given(first=rows_of(VALUE), second=rows_of(VALUE))
def test_jsonl_comes_back_as_it_was(folder, first, second):
    text = write(folder / "t.jsonl", first, second)
    assert [json.loads(line) for line in text.split("\n")[:-1]] == [*first, *second]


@settings(max_examples=60, deadline=None)
@given(first=rows_of(CELL), second=rows_of(CELL))
def test_csv_comes_back_as_the_csv_module_and_our_reader_read_it(folder, first, second):
    text = write(folder / "t.csv", first, second)
    cells = [[row.get(name, "") for name in NAMES] for row in (*first, *second)]
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == [list(NAMES), *cells]
    table = read_table(TableFile(path=str(folder / "t.csv")))
    assert [list(row) for row in zip(*table.columns.values())] == cells


@settings(max_examples=60, deadline=None)
@given(rows=rows_of(CELL.filter(lambda text: not set(text) & set("\t\r\n"))))
def test_tsv_comes_back_as_our_reader_reads_it(folder, rows):
    write(folder / "t.tsv", rows)
    table = read_table(TableFile(path=str(folder / "t.tsv")))
    assert [list(row) for row in zip(*table.columns.values())] == [
        [row.get(name, "") for name in NAMES] for row in rows
    ]


def test_csv_holds_lists_and_objects_as_json_and_nothing_as_nothing(tmp_path):
    row = {
        **{"none": None, "yes": True, "count": 3, "share": 0.25, "list": ["\u00e9", 1]},
        **{
            "object": {"a": None},
            "day": datetime.date(2020, 1, 2),
            "price": decimal.Decimal("1.50"),
        },
        **{"size": np.float32(0.5), "many": np.arange(2)},
    }
    text = write(tmp_path / "t.csv", [row], names=tuple(row))
    assert next(csv.DictReader(io.StringIO(text))) == {
        **{"none": "", "yes": "true", "count": "3", "share": "0.25", "list": '["\u00e9", 1]'},
        **{"object": '{"a": null}', "day": "2020-01-02", "price": "1.50"},
        **{"size": "0.5", "many": "[0, 1]"},
    }


def test_half_a_character_stays_what_it_was_in_jsonl(tmp_path):
    text = write(tmp_path / "t.jsonl", [{"text": "\u00e9 \ud83d"}, {"text": "\u00e9"}])
    assert text == '{"text": "\\u00e9 \\ud83d"}\n{"text": "\u00e9"}\n'


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("t.jsonl", value) for value in (float("nan"), [float("inf")], b"bytes", {1j})),
        *(("t.csv", value) for value in (float("nan"), "\ud83d", b"bytes")),
        *(("t.tsv", value) for value in ("a\tb", "a\nb", "a\r")),
    ],
)
def test_a_value_that_cannot_be_written_is_told_with_its_place(tmp_path, name, value):
    with pytest.raises(UserError, match="cannot be written") as error:
        write(tmp_path / name, [{"text": "fine"}, {"text": "fine", "a,b": value}])
    assert error.value.where == "row 1, column a,b" and repr(value)[:80] == error.value.got
    assert not list(tmp_path.iterdir())


def test_a_column_that_comes_late_is_refused_where_there_is_a_header(tmp_path):
    parts = [{"text": "x"}], [{"text": "y"}, {"new": "z"}]
    with pytest.raises(UserError, match="did not have") as error:
        write(tmp_path / "t.csv", *parts, names=("text",))
    assert error.value.where == "row 1" and error.value.got == "new"
    assert write(tmp_path / "t.jsonl", *parts, names=("text",)).count("\n") == 3


# --- Whole or absent ----------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from jaxssl.data.tables.writers import open_output
with open_output(sys.argv[1]) as writer:
    writer.write(["a"], [{"a": "x" * 10_000}] * 100, ["here"] * 100)
    print(*os.listdir(os.path.dirname(sys.argv[1])), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_is_written_when_it_is_killed_has_another_name(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("before")
    program = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = [p for p in tmp_path.iterdir() if p != path]
    assert left.name.startswith(".") and left.suffix == ".tmp" and left.stat().st_size > 1_000_000
    assert path.read_text() == "before"


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("before")
    with pytest.raises(RuntimeError), open_output(str(path)) as writer:
        writer.write(["a"], [{"a": "x"}], ["here"])
        raise RuntimeError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_standard_output_gets_jsonl(capsys):
    with open_output("-") as writer:
        writer.write(["a"], [{"a": 1}], ["here"])
        assert capsys.readouterr().out == '{"a": 1}\n'  # at once


def test_standard_output_is_utf8_whatever_the_terminal_is(monkeypatch):
    raw = io.BytesIO()
    terminal = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", terminal)
    with open_output("-") as writer:
        writer.write(["a"], [{"a": "caf\u00e9 \U0001f600"}], ["here"])
    print("done", file=terminal, flush=True)
    first, second = raw.getvalue().decode("utf-8").splitlines()
    assert json.loads(first) == {"a": "caf\u00e9 \U0001f600"} and second == "done"


def refused(path, inputs=(), overwrite=False):
    with pytest.raises(UserError) as error:
        check_output(str(path), [str(given) for given in inputs], overwrite)
    return str(error.value)


def test_places_where_something_would_be_lost_are_refused(tmp_path):
    there, other = tmp_path / "there.jsonl", tmp_path / "link.jsonl"
    there.write_text("{}")
    other.symlink_to(there)
    assert "mkdir -p" in refused(tmp_path / "no" / "t.jsonl")
    assert "--overwrite" in refused(there)
    check_output(str(there), [], True)
    assert "an input too" in refused(other, [there], overwrite=True)
    assert "no file" in refused(tmp_path, overwrite=True)
    assert "no file" in refused("/dev/null", overwrite=True)
    assert "not written" in refused(tmp_path / "t.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.jsonl", "there.jsonl"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a directory nobody can write to")
def test_a_directory_that_cannot_be_written_to_is_told():
    assert "cannot be written to" in refused("/proc/self/t.jsonl")
