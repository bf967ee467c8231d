"""Labels of rows: what a value means, in every format that holds it."""

import json

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.splits import hold_out
from jaxssl.data.tables.table import Table
from jaxssl.data.tables.writers import open_output
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.label_notes import label_notes
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.task import Relate
from jaxssl.tasks.tag.task import Tag


@pytest.fixture(scope="module")
def tokenizer():
    return toy.train_toy_tokenizer("wordpiece")


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
    assert named.multi_hot is None and named.labels == ("0", "1")  # runs of before have no more
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


# --- Missing labels -------------------------------------------------------------------------------

NAN = float("nan")


def as_file(tmp_path, ending, values):
    """The values in a file's column `label`, as pandas writes them."""
    import pandas

    path = tmp_path / f"t.{ending}"
    frame = pandas.DataFrame({"text": "a", "label": pandas.Series(values)})
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    return read_table(TableFile(path=str(path)))


NAMES, NUMBERS = ["x", "y", None, "x"], [0.5, 1.5, NAN, 0.5]
LEARN = [
    (Classify(), NAMES),
    (Classify(), NUMBERS),
    (Relate(label="label"), NAMES),
    (Relate(label="label"), NUMBERS),
    (Regress(), NUMBERS),
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(("task", "values"), LEARN)
def test_a_missing_label_is_refused_with_its_row(tmp_path, ending, task, values):
    rows = as_file(tmp_path, ending, values)
    error = refused(lambda: task.learn_labels(rows), "no label|cannot be used")
    assert error.where.startswith(rows.places[2]) and repr(rows.columns["label"][2]) in error.got


@pytest.mark.parametrize("value", [None, NAN, ["a", None], ["a", NAN], ["a", ""], "['a', None]"])
def test_nothing_is_not_the_same_as_no_labels(value):
    refused(lambda: several(["a", value]), "no label|are missing")
    task, rows = several(["a", "", [], "[]", " "])
    assert task.labels == ("a",) and rows == [["a"], [], [], [], []]


@pytest.mark.parametrize("tag", [None, NAN, "", " "])
def test_a_word_without_a_tag_is_refused_with_its_row(tag):
    rows = Table({"words": [["a"], ["b", "c"]], "tags": [["O"], ["O", tag]]}, ["x:1", "x:2"])
    where = "x:2, column tags, tag 1, of 'c'"
    refused(lambda: Tag(scheme="none").learn_labels(rows), "no tag", where)


@pytest.mark.parametrize("value", [None, NAN, "", "  "])
def test_rows_to_hold_out_all_have_labels(value):
    rows = Table({"label": ["a", "b"] * 5 + [value]}, [f"x:{i}" for i in range(11)])
    call = lambda: hold_out(rows, {"validation": 0.2}, 0, "label", None, print)
    refused(call, "no label", "x:10")


def test_a_value_that_names_no_class_is_refused():
    for value in ({"a": 1}, b"a", float("inf"), {1, 2}):
        refused(lambda value=value: Classify().learn_labels(table(["a", value])), "no label")


# --- Order, and labels that look wrong ------------------------------------------------------------


@given(rows=st.permutations(["nan", "inf", "1_000", "10", "9", "1e3", "-inf", "a", "\u0663", "2"]))
def test_the_order_of_labels_does_not_depend_on_the_rows(rows):
    found = Classify().learn_labels(table(rows)).labels
    assert found == ("2", "9", "10", "1e3", "-inf", "1_000", "a", "inf", "nan", "\u0663")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["1", "1.0", "2"], "'1' and '1.0'"),
        ([1, 1.0, 2.0], "'1' and '1.0'"),
        (["True", "true"], "'True' and 'true'"),
        ([True, "true"], "'True' and 'true'"),
        (["caf\u00e9", "cafe\u0301"], "'cafe\u0301' and 'caf\u00e9'"),
        (["nan", "a"], "'nan' is learnt as a label"),
        (["a", "<NA>"], "'<NA>' is learnt as a label"),
        ([i / 10 for i in range(24)], "task.name=regress"),
        (list(range(24)), "task.name=regress"),
        ([0.5, 1.5, 2.0], "task.name=regress"),
    ],
)
def test_labels_that_look_wrong_are_pointed_out(tokenizer, labels, told):
    rows = Table({"text": ["the cat"] * len(labels), "label": labels}, ["x"] * len(labels))
    task = Classify().learn_labels(rows)
    (note,) = task.encode(rows, tokenizer, 16, "train").notes
    assert told in note
    assert not task.encode(rows, tokenizer, 16, "validation").notes


@pytest.mark.parametrize(
    "labels", [["0", "1", "2"], list(range(19)), ["a", "none", "1"], ["1.5", "x"]]
)
def test_labels_that_look_right_are_not_pointed_out(labels):
    assert Classify().learn_labels(table(labels)).label_notes == ()


def test_tags_and_relations_that_look_wrong_are_pointed_out(tokenizer):
    rows = Table({"words": [["the", "cat"]], "tags": [["NOUN", "_"]]}, ["x"])
    (note,) = Tag(scheme="none").learn_labels(rows).encode(rows, tokenizer, 16, "train").notes
    assert "'_' is learnt as a label" in note
    assert "'NOUN' and 'noun'" in label_notes(["NOUN", "_x", "noun"])[0]


def test_a_label_of_another_spelling_than_in_training_is_told():
    task = Classify(labels=("1", "2", "yes"))
    assert "'1', write it so" in refused(lambda: task.label_numbers(table(["1.0"])), "not have").fix
    assert (
        "'yes', write it so" in refused(lambda: task.label_numbers(table(["YES"])), "not have").fix
    )
    amounts = Classify(labels=("0.5", "1.5", "2.5"))
    assert "regress" in refused(lambda: amounts.label_numbers(table([3.5])), "not have").fix


def test_amounts_that_cannot_be_held_out_by_class_are_told_to_be_amounts():
    rows = Table({"label": [str(i / 7) for i in range(24)]}, ["x"] * 24)
    call = lambda: hold_out(rows, {"validation": 0.1}, 0, "label", None, print)
    assert "task.name=regress" in refused(call, "too few rows").fix


def test_to_predict_no_label_is_needed(tokenizer):
    rows = Table({"text": ["the cat"], "words": ["the cat"]}, ["x"])
    for task in (Classify(labels=("a", "b")), Regress(), Tag(labels=("O", "B-X"))):
        assert task.encode(rows, tokenizer, 16, "new", labelled=False).examples.num_rows == 1
