"""Labels of rows: what a value means, in every format that holds it."""

import json

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.table import Table
from jaxssl.data.tables.writers import open_output
from jaxssl.tasks.classify import Classify


def table(values):
    return Table({"label": values}, [f"x:{i + 1}" for i in range(len(values))], "x")


def several(values, **options):
    """The labels that are learnt, and those of each row."""
    rows = table(values)
    task = Classify(multi_label=True, **options).learn_labels(rows)
    chosen = task.label_numbers(rows)
    return task, [[task.labels[i] for i in np.flatnonzero(row)] for row in chosen]


def refused(call, match, where=None):
    with pytest.raises(UserError, match=match) as error:
        call()
    assert where is None or error.value.where == where
    return error.value


# --- Lists ----------------------------------------------------------------------------------------

LISTS = [["sea", "accident"], [], ["sea"]]


@pytest.mark.parametrize("form", [json.dumps, str, ",".join, lambda x: x, tuple])
def test_lists_of_labels_are_the_same_in_every_form(form):
    task, rows = several([form(row) for row in LISTS])
    assert task.labels == ("accident", "sea") and rows == [["accident", "sea"], [], ["sea"]]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
def test_labels_that_predict_writes_can_be_trained_on(tmp_path, ending):
    task, _ = several(LISTS)
    logits = np.array([[3.0, 2.0], [-3.0, -2.0], [-1.0, 1.0]])
    path = str(tmp_path / f"out.{ending}")
    with open_output(path) as writer:
        written = task.outputs({"logits": logits}, None)
        writer.write(["labels", "probabilities"], written, ["row"] * 3)
    again = Classify(multi_label=True, label="labels").learn_labels(
        read_table(TableFile(path=path))
    )
    assert again.labels == task.labels
    numbers = again.label_numbers(read_table(TableFile(path=path)))
    assert numbers.tolist() == (logits > 0).tolist()


@pytest.mark.parametrize("text", ["[sea, accident]", "['sea' 'accident']", "[0 1]", "{'a', 'b'}"])
def test_a_list_that_cannot_be_read_is_no_label(text):
    call = lambda: several([text, "sea"])
    assert "json.dumps" in str(refused(call, "list that cannot be read", "x:1, column label"))


@pytest.mark.parametrize("value", ["['sea', 'accident']", '["sea"]', ["sea"], "[0, 1, 0]"])
def test_one_label_a_row_is_no_list(value):
    refused(
        lambda: Classify().learn_labels(table(["sea", value])),
        "several labels",
        "x:2, column label",
    )
    assert Classify().learn_labels(table(["[sea]", "sea"])).labels == ("[sea]", "sea")


# --- Multi-hot ------------------------------------------------------------------------------------

HOT = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
FORMS = [
    lambda row: row,
    lambda row: [float(x) for x in row],
    lambda row: [bool(x) for x in row],
    json.dumps,
    lambda row: str([bool(x) for x in row]),
    lambda row: ",".join(map(str, row)),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_zeros_and_ones_is_its_classes(form):
    values = [form(row) for row in HOT]
    task, rows = several(values)
    assert task.labels == ("0", "1", "2") and rows == [["0", "2"], [], ["1"]]
    task, rows = several(values, labels=("sea", "air", "land"))
    assert task.labels == ("sea", "air", "land") and rows == [["sea", "land"], [], ["air"]]
    np.testing.assert_array_equal(task.label_numbers(table(values)), HOT)


def test_what_training_found_holds_for_all_splits():
    task, _ = several(HOT)
    assert task.multi_hot and task.label_numbers(table([[0, 1, 0]])).tolist() == [[0, 1, 0]]
    named, _ = several([[0], [1, 0], []])  # the labels 0 and 1, by name
    assert named.multi_hot is False and named.labels == ("0", "1")
    assert named.label_numbers(table([[0, 1]])).tolist() == [[1, 1]]
    two, rows = several([[0, 1], [1, 0], [1, 1]])
    assert two.multi_hot and rows == [["1"], ["0"], ["0", "1"]]
    # A head that was imported with its labels has seen no training split.
    given = Classify(multi_label=True, labels=("a", "b", "c"))
    assert given.label_numbers(table([[0, 1, 0], [1, 0, 1]])).tolist() == [[0, 1, 0], [1, 0, 1]]


def test_numbers_of_labels_stay_labels():
    task, rows = several([[0, 2], [1], [], [2, 1]])
    assert not task.multi_hot and task.labels == ("0", "1", "2") and rows[0] == ["0", "2"]
    task, rows = several([[1, 0], [0, 1]], multi_hot=False)
    assert rows == [["0", "1"], ["0", "1"]]


def test_a_row_that_is_not_of_zeros_and_ones_for_each_label_is_refused():
    for values in ([*HOT, [1, 0]], [*HOT, []], [*HOT, ""], [[1, 1, 0], [0, 1, 0, 0]]):
        where = f"x:{len(values)}, column label"
        refused(lambda values=values: several(values), "without a 0 or 1 for each label", where)
    refused(lambda: several(HOT, labels=("a", "b")), "without a 0 or 1", "x:1, column label")
    refused(lambda: several(["a"], multi_hot=True), "without a 0 or 1", "x:1, column label")
    refused(lambda: Classify(multi_hot=True), "one label", "multi_hot")


@pytest.mark.parametrize(("zero", "label"), [(0, "0"), (False, "False"), (7, "7"), (0.0, "0.0")])
def test_a_number_alone_is_a_label_zero_too(zero, label):
    task, rows = several([zero, "a", [zero]])
    assert task.labels == (label, "a") and rows == [[label], ["a"], [label]]
