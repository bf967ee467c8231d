"""Files that no recipe describes."""

import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile, TableHub
from jaxssl.data.tables.inputs import input_file, unused_options


def test_options_are_read_as_in_a_recipe():
    file = input_file("a.csv", options=["delimiter=;", "columns=[id, text]", "skip_lines=1"])
    assert file == TableFile(path="a.csv", delimiter=";", columns=("id", "text"), skip_lines=1)
    assert input_file("a.csv", options=['delimiter="\\t"']).delimiter == "\t"
    positions = input_file("a", "conll", ["positions.words=1"]).positions
    assert positions == {"words": 1}
    assert input_file("a.csv", options=["format=tsv"]).kind == "tsv"


def test_a_text_file_is_a_text_a_line_under_the_name_that_the_task_has_for_it():
    for path, format in (("a.txt", "auto"), ("a.TXT.gz", "auto"), ("a.csv", "lines")):
        assert input_file(path, format, column="sentence").columns == ("sentence",)
    assert input_file("a.txt", options=["columns=[t]"], column="sentence").columns == ("t",)
    assert input_file("a.txt", "csv", column="sentence").columns is None
    with pytest.raises(UserError, match="not what this task reads"):
        input_file("a.txt")


@pytest.mark.parametrize(
    ("path", "format", "options", "told"),
    [
        ("a.csv", "auto", ["delimeter=;"], "did you mean 'delimiter'"),
        ("a.csv", "auto", ["delimiter"], "key=value"),
        ("a.csv", "auto", ["path=b.csv"], "other than its path"),
        ("a.csv", "auto", ["task.beams.count=4"], "given with --with task.beams.count=4"),
        ("a.csv", "xml", [], "'xml'"),
        ("a.xml", "auto", [], "does not tell its format"),
        ("a.jsonl", "auto", ["delimiter=;"], "means nothing for a file of format jsonl"),
        ("a.csv", "auto", ["name=hub"], "name"),
    ],
)
def test_what_cannot_be_used_is_refused(path, format, options, told):
    with pytest.raises(UserError) as error:
        input_file(path, format, options)
    assert told in str(error.value)


def test_options_that_are_not_taken_over_are_told():
    known = TableFile(path="train.csv", delimiter=";", encoding="cp1252")
    told = unused_options(known, TableFile(path="new.csv"))
    expected = "delimiter=';', encoding='cp1252'"
    assert told == f"new.csv is read without the options of train.csv: {expected}"
    assert (
        told == "new.csv is read without the options of train.csv: delimiter=';', encoding='cp1252'"
    )
    told = unused_options(known, TableFile(path="new.csv", delimiter="|"))
    assert told is not None and "delimiter" not in told and "cp1252" in told
    assert (
        unused_options(known, TableFile(path="new.csv", delimiter=";", encoding="cp1252")) is None
    )
    assert unused_options(known, TableFile(path="new.tsv")) is None
    assert unused_options(TableFile(path="train.csv"), TableFile(path="new.csv")) is None
    assert unused_options(TableHub(dataset="glue"), TableFile(path="new.csv")) is None
