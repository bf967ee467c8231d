"""Questions as every reader of tables gives them, and mistakes in them."""

import dataclasses
import json

import pytest
import squad_questions

from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile, TableHub
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.table import Table
from jaxssl.tasks.answer.questions import read_questions

COLUMNS = {"id": "id", "question": "question", "context": "context", "answers": "answers"}
CONTEXT = "One cat is red, one cat is blue."


def table_of(**changes):
    row = {"id": "q7", "question": "what?", "context": CONTEXT, "answers": gold("red", 11)}
    rows = [{**row, "id": "q6"}, {**row, **changes}]
    columns = {name: [each[name] for each in rows] for name in row}
    return Table(columns, ["a.jsonl:1", "a.jsonl:2"], "a.jsonl")


def gold(*pairs):
    return {"text": list(pairs[0::2]), "answer_start": list(pairs[1::2])}


def test_all_formats_give_the_same_questions(tmp_path):
    import datasets

    path = squad_questions.write(tmp_path / "a.json", 12, answerable=0.5)
    squad = read_table(TableFile(path=str(path)))
    rows = [dict(zip(squad.columns, values)) for values in zip(*squad.columns.values())]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = {"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}
    features = {n: datasets.Value("string") for n in ("id", "title", "question", "context")}
    hub = datasets.Features({**features, "answers": datasets.Sequence(both)})
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list(rows, features=hub).to_parquet(tmp_path / "hub/train.parquet")
    tables = [
        squad,
        read_table(TableFile(path=str(tmp_path / "a.jsonl"))),
        read_table(TableFile(path=str(tmp_path / "hub/train.parquet"))),
        read_table(TableHub(dataset=str(tmp_path / "hub"))),
    ]
    read = [
        [(q.id, q.text, q.context, q.answers) for q in read_questions(table, **COLUMNS)]
        for table in tables
    ]
    assert read[0] == read[1] == read[2] == read[3]
    assert [q[0] for q in read[0]] == [f"q{i}" for i in range(12)]
    answers = [q[3] for q in read[0]]
    assert () in answers and any(answers)
    for _, _, context, golds in read[0]:
        assert all(context[g.start : g.start + len(g.text)] == g.text for g in golds)


@pytest.mark.parametrize("form", [json.dumps, str])
def test_answers_of_a_csv_file_are_those_of_the_object(form):
    for answers in (gold("red", 11), gold(), [{"text": "cat", "answer_start": 4}], []):
        listed = read_questions(table_of(answers=answers), **COLUMNS)[1]
        as_text = read_questions(table_of(answers=form(answers)), **COLUMNS)[1]
        assert as_text.answers == listed.answers


def test_answers_may_be_a_list_of_objects():
    answers = [{"text": "red", "answer_start": 11}, {"text": "cat is red", "answer_start": 4}]
    asked = read_questions(table_of(answers=answers), **COLUMNS)[1]
    assert [tuple(g) for g in asked.answers] == [("red", 11), ("cat is red", 4)]


def test_without_an_id_column_questions_are_numbered():
    table = table_of(id="q6")
    with pytest.raises(UserError, match="(?s)the same id.*a.jsonl:2.*'q6', which a.jsonl:1 has"):
        read_questions(table, **COLUMNS)
    assert [q.id for q in read_questions(table, **{**COLUMNS, "id": None})] == ["0", "1"]
    later = dataclasses.replace(
        table, row_numbers=range(7, 7 + len(table))
    )  # a part of a larger file
    assert [q.id for q in read_questions(later, **{**COLUMNS, "id": None})] == ["7", "8"]


def test_without_answers_none_are_read():
    table = table_of(answers="nonsense")
    assert read_questions(table, **{**COLUMNS, "answers": None})[1].answers is None


def test_the_spaces_around_an_answer_are_left_out_of_its_characters():
    asked = read_questions(table_of(answers=gold(" red", 10)), **COLUMNS)[1]
    assert asked.answers[0].characters == (11, 14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": "  "}, "(?s)a text is empty.*a.jsonl:2, column question"),
        ({"context": ""}, "(?s)a text is empty.*a.jsonl:2, column context"),
        ({"id": None}, "(?s)a question has no id.*a.jsonl:2.*task.id=null"),
        ({"id": True}, "a question has no id"),
        ({"answers": None}, "(?s)answers are not given.*a.jsonl:2, column answers"),
        ({"answers": "red"}, "(?s)these are not answers.*a.jsonl:2"),
        ({"answers": {"text": ["red"]}}, "these are not answers"),
        ({"answers": {"text": ["red"], "answer_start": []}}, "these are not answers"),
        ({"answers": gold("red", "11")}, "an answer is a text and where it starts"),
        ({"answers": gold(None, 11)}, "an answer is a text and where it starts"),
        ({"answers": gold("", 11)}, "(?s)an answer is empty.*a.jsonl:2"),
        (
            {"answers": gold("red", 12)},
            "(?s)not in its context at answer_start.*a.jsonl:2, question 'q7'.*"
            "'red' at character 12.*'ed,'.*the nearest is at 11",
        ),
        ({"answers": gold("red", -21)}, "the nearest is at 11"),
        ({"answers": gold("one cat", 0)}, "the nearest is at 16"),
        ({"answers": gold("red", 11, "green", 11)}, "does not hold this text anywhere"),
    ],
)
def test_mistakes_are_told_with_their_place(changes, message):
    with pytest.raises(UserError, match=message):
        read_questions(table_of(**changes), **COLUMNS)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_missing_column_is_told_with_the_key_that_named_it(name):
    key = "label" if name == "answers" else name
    with pytest.raises(UserError, match=f"(?s)no such column.*task.{key}, in a.jsonl"):
        read_questions(table_of(), **{**COLUMNS, name: "nothing"})
