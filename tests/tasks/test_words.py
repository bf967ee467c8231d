"""Words of sentences: lists, lists as text, and strings that are split."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tables.blanks import split_words
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.table import Table
from jaxssl.data.tables.writers import open_output
from jaxssl.tasks.tag.tagged import read_tags
from jaxssl.tasks.words import read_words


def words(*values):
    table = Table({"words": list(values)}, [f"x:{i + 1}" for i in range(len(values))], "x")
    return read_words(table, "words", "task.words")


def test_lists_as_text_are_lists():
    want = ["it's", 'a "b"', ",", "10 000"]
    assert words(want, str(want), '["it\'s", "a \\"b\\"", ",", "10 000"]') == [want] * 3


def test_brackets_in_a_text_are_text():
    assert words("[ Music ]", "[1]", "[sic]") == [["[", "Music", "]"], ["[1]"], ["[sic]"]]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("['a' 'b']", "list that cannot be read"),
        ('["a", 3]', "word is not a string"),
        ("['a', None]", "word is not a string"),
        ("[]", "sentence is empty"),
        (3, "not a list of words"),
    ],
)
def test_what_is_no_list_of_words_is_refused(value, match):
    with pytest.raises(UserError, match=match) as error:
        words("a b", value)
    assert error.value.where.startswith("x:2, column words")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_words_and_tags_that_predict_writes_come_back(tmp_path, ending):
    rows = [
        {"words": ["10\u00a0000", "a, b", "'t"], "tags": ["B-X", "O", "I-X"]},
        {"words": ["\u2028"], "tags": ["NOUN"]},
    ]
    path = str(tmp_path / f"out.{ending}")
    with open_output(path) as writer:
        writer.write(["words", "tags"], rows, ["row"] * 2)
    table = read_table(TableFile(path=path))
    found = read_words(table, "words", "task.words")
    assert found == [row["words"] for row in rows]
    assert read_tags(table, "tags", found) == [row["tags"] for row in rows]


UNICODE_SPACES = [chr(i) for i in range(0x110000) if chr(i).isspace() and chr(i) not in " \t\r\n"]


def test_a_word_ends_at_the_same_place_in_every_format(tmp_path):
    """In CoNLL columns, in lists, in a text to tag, and in what predict writes."""
    assert len(UNICODE_SPACES) > 20
    inside = [f"10{space}000" for space in UNICODE_SPACES]
    want = [*UNICODE_SPACES, *inside, "end"]
    (tmp_path / "t.conll").write_text("".join(f"{word} O\n" for word in want), newline="")
    (tmp_path / "t.txt").write_text(" ".join(want) + "\n", newline="")
    (tmp_path / "t.jsonl").write_text(json.dumps({"words": want}))
    for name in ("t.conll", "t.txt", "t.jsonl"):
        options = {"format": "lines", "columns": ("words",)} if name == "t.txt" else {}
        table = read_table(TableFile(path=str(tmp_path / name), **options))
        assert read_words(table, "words", "task.words") == [want], name
    assert words(" ".join(want), "\t".join(want), str(want), json.dumps(want)) == [want] * 4


@given(text=st.text(" \t\r\n\u00a0\u2028\x0b\x1c\x85ab", max_size=20))
def test_words_are_what_stands_between_blanks(text):
    assert split_words(text) == [word for word in re.split("[ \t\r\n]+", text) if word]


def test_each_sentence_has_as_many_tags_as_words():
    text, tags = "10\u00a0000 euros\u2028 a day", "B-X I-X O O"
    sentences = words(text, "a")
    assert sentences[0] == ["10\u00a0000", "euros\u2028", "a", "day"]
    table = Table({"tags": [tags, "O"]}, ["x:1", "x:2"])
    assert read_tags(table, "tags", sentences) == [tags.split(), ["O"]]
    for wrong in (["O", "O O"], [tags + " O", "O"], [tags.replace(" ", "\u00a0", 1), "O"]):
        with pytest.raises(UserError, match="not as many tags as words"):
            read_tags(Table({"tags": wrong}, ["x:1", "x:2"]), "tags", sentences)


@pytest.mark.parametrize("tags", ["['NOUN', 'DET']", '["NOUN", "DET"]', "NOUN DET"])
def test_tags_as_text_are_the_tags(tags):
    assert read_tags(Table({"tags": [tags]}, ["x"]), "tags", [["a", "b"]]) == [["NOUN", "DET"]]


@pytest.mark.parametrize("tags", ["[NOUN, DET]", "['NOUN' 'DET']", "[0 1]"])
def test_tags_as_text_that_is_no_list_are_refused(tags):
    with pytest.raises(UserError, match="list that cannot be read"):
        read_tags(Table({"tags": [tags]}, ["x"]), "tags", [["a", "b"]])
