"""Lists that CSV holds as text: what this package, pandas and numpy write, and what text is."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tables.cells import spelt, spelt_list
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.writers import open_output

WORDS = st.lists(st.text("ab'\"\\ ,[]\n\u00a0\u2028\u00e9\U0001f600", max_size=6), max_size=5)


@given(words=WORDS)
def test_a_list_comes_back_from_json_and_from_pythons_form(words):
    assert spelt_list(json.dumps(words), "here") == words
    assert spelt_list(f" {words!s} ", "here") == words


@given(values=st.lists(st.one_of(st.none(), st.booleans(), st.integers()), max_size=4))
def test_what_else_a_list_may_hold_comes_back(values):
    assert spelt(json.dumps(values)) == spelt(str(values)) == values
    assert spelt(json.dumps({"a": values})) == spelt(str({"a": values})) == {"a": values}


@settings(deadline=None)
@given(rows=st.lists(WORDS, min_size=1, max_size=4))
def test_lists_come_back_from_pandas_and_from_our_own_csv(tmp_path_factory, rows):
    import pandas

    path = tmp_path_factory.getbasetemp() / "lists.csv"
    with path.open("w", newline="") as file:
        pandas.DataFrame({"a": rows, "b": "x"}).to_csv(file, index=False)
    theirs = read_table(TableFile(path=str(path))).columns["a"]
    with open_output(str(path)) as writer:
        writer.write(["a", "b"], [{"a": row, "b": "x"} for row in rows], ["row"] * len(rows))
    ours = read_table(TableFile(path=str(path))).columns["a"]
    known = [
        row["a"] for row in csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
    ]
    assert ours == known and [json.loads(cell) for cell in ours] == rows
    assert [spelt_list(cell, "here") for cell in (*theirs, *ours)] == [*rows, *rows]


@pytest.mark.parametrize(
    "text",
    ["", "[", "a", "[CLS]", "[ Music ]", "['a', f(2)]", "(1, 2)", "[1 2]", "{}x", "[nan]"]
    + ['("Stop!")', '("Quite so," he said, "indeed")', "('tis)", '"a", "b"'],
)
def test_text_is_no_list(text):
    assert spelt(text) is None and spelt_list(text, "here") is None


def unreadable():
    many = np.array([f"word{i}" for i in range(40)])
    return [
        "['a' 'b']",
        str(many),
        str(many.astype(object)),
        "('a', 'b')",
        "('a',)",
        "{'a', 'b'}",
        "['a',]x']",
    ]


@pytest.mark.parametrize("text", unreadable())
def test_a_list_that_cannot_be_read_back_is_refused_and_not_taken_for_text(text):
    with pytest.raises(UserError, match=r"(?s)list that cannot be read.*t.csv:2.*json.dumps"):
        spelt_list(text, "t.csv:2")


def test_brackets_are_a_list_where_no_text_can_be():
    for text in ("[a, b]", "[0 1 2]", "[ 0 10]", "[a", "['a', b]"):
        if text == "[a":
            assert spelt_list(text, "here", brackets=True) is None
            continue
        with pytest.raises(UserError, match="list that cannot be read"):
            spelt_list(text, "here", brackets=True)
    assert spelt_list("[ X ]", "here", brackets=True) is None  # tags of brackets
    assert spelt_list("[0, 1]", "here", brackets=True) == [0, 1]
