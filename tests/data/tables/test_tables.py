"""Labelled data: what each format gives, how mistakes are told, how rows are held out."""

import bz2
import csv
import dataclasses
import gzip
import json
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxssl.core import config as configs
from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile, TableHub, TableSplits
from jaxssl.data.tables.inputs import input_file
from jaxssl.data.tables.read import read_splits, read_table
from jaxssl.data.tables.splits import allot
from jaxssl.data.tables.table import Table

NASTY = [
    "plain",
    'say "no"',
    "a, b",
    "two\nlines",
    "caf\u00e9",
    "",
    " wide ",
    "\u2028\x85",
    "x" * 200_000,
]


def write(path, content, pack=None):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(pack.compress(data) if pack else data)
    return str(path)


def read(path, **options):
    return read_table(TableFile(path=str(path), **options))


def lines_of(table):
    return [int(place.rpartition(":")[2]) for place in table.places]


def conll(*sentences):
    return "".join("".join(f"{line}\n" for line in s) + "\n" for s in sentences)


def squad(*entries, context="Paris is in France.", version="v2.0"):
    paragraph = {"context": context, "qas": list(entries)}
    return {"version": version, "data": [{"title": "Cities", "paragraphs": [paragraph]}]}


def question(name, *answers, **more):
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "Where?", "answers": found, **more}


# --- Formats --------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "pack"), [("", None), (".gz", gzip), (".bz2", bz2)])
def test_a_csv_comes_back_as_pandas_reads_it(tmp_path, ending, pack):
    import pandas

    frame = pandas.DataFrame({"text": NASTY, "label": [str(i) for i in range(len(NASTY))]})
    path = write(tmp_path / f"t.csv{ending}", "\ufeff" + frame.to_csv(index=False), pack)
    table = read(path)
    known = pandas.read_csv(path, dtype=str, keep_default_na=False)
    assert table.columns == {name: known[name].tolist() for name in known}
    assert table.columns["text"] == NASTY
    assert lines_of(table) == [2, 3, 4, 5, 7, 8, 9, 10, 11]
    assert csv.field_size_limit() == 131072


def test_a_tsv_takes_quotation_marks_as_they_are(tmp_path):
    content = 'id\tquote\r\n1\t"unbalanced\r\n\r\n2\tan "other" one\u2028still\n'
    path = write(tmp_path / "t.tsv", content)
    table = read(path)
    assert table.columns == {
        "id": ["1", "2"],
        "quote": ['"unbalanced', 'an "other" one\u2028still'],
    }
    assert table.places == [f"{path}:2", f"{path}:4"]
    with pytest.raises(UserError, match="not CSV") as error:
        read(path, quoting="standard")
    assert error.value.where == f"{path}:2"


def test_a_file_without_header_gets_its_names_from_the_configuration(tmp_path):
    path = write(tmp_path / "cola.tsv", "gj04\t1\t\tOurs.\ngj05\t0\t*\tOur.\n")
    table = read(path, columns=("source", "label", "mark", "sentence"))
    assert table.columns["sentence"] == ["Ours.", "Our."] and lines_of(table) == [1, 2]


def test_the_header_lines_of_orange_are_skipped(tmp_path):
    path = write(tmp_path / "t.tab", "Category\tText\nd\tstring\nclass\t\n\nearn\tshares\n")
    table = read(path, skip_lines=2)
    assert table.columns == {"Category": ["earn"], "Text": ["shares"]} and lines_of(table) == [5]
    assert read(path, skip_lines=3, columns=("a", "b")).columns == {"a": ["earn"], "b": ["shares"]}
    with pytest.raises(UserError, match="column types") as error:
        read(path)
    assert "skip_lines=2" in str(error.value)


def test_blank_lines_are_rows_of_a_single_column_only(tmp_path):
    assert read(write(tmp_path / "one.tsv", "text\na\n\nb\n")).columns == {"text": ["a", "", "b"]}
    assert read(write(tmp_path / "one.csv", "text\na\n\nb\n")).columns == {"text": ["a", "", "b"]}
    assert len(read(write(tmp_path / "two.csv", "a,b\n1,2\n\n3,4\n\n"))) == 2


def test_a_header_may_leave_a_column_without_name(tmp_path):
    assert list(read(write(tmp_path / "t.csv", ",b\n1,2\n")).columns) == ["column 1", "b"]


def test_other_delimiters_and_encodings_are_read(tmp_path):
    path = write(tmp_path / "t.csv", "a;b\ncaf\u00e9;2\n".encode("latin-1"))
    assert read(path, delimiter=";", encoding="latin-1").columns == {"a": ["caf\u00e9"], "b": ["2"]}


@pytest.mark.parametrize(("ending", "pack"), [("", None), (".gz", gzip)])
def test_jsonl_keeps_types_and_fills_absent_keys(tmp_path, ending, pack):
    path = tmp_path / f"t.jsonl{ending}"
    write(path, '{"text": "a", "label": 1}\n\n{"text": "\u2028", "tags": ["x"]}\n', pack)
    table = read(path)
    assert table.columns == {
        "text": ["a", "\u2028"],
        "label": [1, None],
        "tags": [None, ["x"]],
    }
    assert lines_of(table) == [1, 3]


def hub_rows():
    import datasets

    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "tags": datasets.List(datasets.ClassLabel(names=["O", "B"])),
            "answers": {"text": datasets.List(datasets.Value("string"))},
        }
    )
    rows = {
        "text": ["a", "b", "c"],
        "label": [1, 0, -1],
        "tags": [[0, 1], [], [1]],
        "answers": [{"text": ["x"]}, {"text": []}, {"text": ["y", "z"]}],
    }
    return datasets.Dataset.from_dict(rows, features=features)


NAMED = {"label": ["good", "bad", None], "tags": [["O", "B"], [], ["B"]]}


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "hub").mkdir()
    hub_rows().to_parquet(tmp_path / "hub" / "train.parquet")
    return tmp_path / "hub"


def test_class_labels_of_a_hub_data_set_get_their_names(hub):
    table = read_table(TableHub(dataset=str(hub)))
    assert {name: table.columns[name] for name in NAMED} == NAMED
    assert table.columns["answers"][2] == {"text": ["y", "z"]}
    assert table.places[2] == f"{hub}, split train row 2"
    assert read_table(TableHub(dataset=str(hub), class_ids=True)).columns["label"] == [1, 0, -1]
    assert len(read_table(TableHub(dataset=str(hub), split="train[:2]"))) == 2


def test_a_hub_data_set_that_cannot_be_read_is_a_user_error(hub):
    for config in (
        TableHub(dataset="nobody/nothing-of-this-name"),
        TableHub(dataset=str(hub), split="tset"),
    ):
        with pytest.raises(UserError, match="cannot be read"):
            read_table(config)
    with pytest.raises(UserError, match="no revisions"):
        read_table(TableHub(dataset=str(hub), revision="main"))


def test_parquet_is_read_with_its_class_names(hub, tmp_path):
    path = hub / "train.parquet"
    table = read(path)
    assert {name: table.columns[name] for name in NAMED} == NAMED
    assert table.places[1] == f"{path} row 1"
    assert read(path, class_ids=True).columns["label"] == [1, 0, -1]
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b"], "score": [0.5, 1.0]})
    frame.to_parquet(tmp_path / "plain.parquet")
    assert read(tmp_path / "plain.parquet").columns == frame.to_dict("list")


def test_conll_columns_make_sentences(tmp_path):
    content = (
        "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n \t\n"
        "-DOCSTART- -X- O O\n\nPeter NNP I-NP B-PER\n"
    )
    path = write(tmp_path / "t.conll", content)
    table = read(path)
    assert table.columns == {
        "words": [["EU", "rejects"], ["Peter"]],
        "tags": [["B-ORG", "O"], ["B-PER"]],
    }
    assert lines_of(table) == [3, 9]
    table = read(path, positions={"w": -4, "pos": 1})
    assert table.columns == {"w": [["EU", "rejects"], ["Peter"]], "pos": [["NNP", "VBZ"], ["NNP"]]}


def test_conll_tokens_may_hold_spaces_and_begin_with_a_hash(tmp_path):
    path = write(tmp_path / "t.bio", "# id 7\n#tag\tO\n10\u00a0000\tB-x\n1 000\tI-x\n")
    table = read(path, delimiter="\t", comment_prefix="# ")
    assert table.columns["words"] == [["#tag", "10\u00a0000", "1 000"]]
    path = write(tmp_path / "u.bio", "10\u00a0000  B-x\n\u00a0 \t O\n")
    assert read(path).columns == {"words": [["10\u00a0000", "\u00a0"]], "tags": [["B-x", "O"]]}


def test_squad_json_becomes_one_row_a_question(tmp_path):
    unknown = {"id": 3, "question": "Who?"}
    entries = question("1", ("France", 12)), question("2", is_impossible=True), unknown
    path = write(tmp_path / "dev.json", json.dumps(squad(*entries)))
    table = read(path)
    assert list(table.columns) == ["id", "title", "question", "context", "answers"]
    assert table.columns["id"] == ["1", "2", "3"] and table.columns["title"] == ["Cities"] * 3
    assert table.columns["answers"] == [
        {"text": ["France"], "answer_start": [12]},
        {"text": [], "answer_start": []},
        None,
    ]
    assert table.places[1] == f"{path}: data[0].paragraphs[0].qas[1]"


def test_files_of_a_glob_are_one_table(tmp_path):
    for i in (2, 1):
        write(tmp_path / f"{i}.csv", f"a,b\n{i},x\n")
    table = read(tmp_path / "*.csv")
    assert table.columns["a"] == ["1", "2"] and table.places[1] == f"{tmp_path}/2.csv:2"
    for name in ("data [v2]", "data v", "data 2"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train-0.csv", f"a,b\n{name},x\n")
    assert read(tmp_path / "data [v2]" / "train-*.csv").columns["a"] == ["data [v2]"]
    assert read(tmp_path / "data [v]" / "train-*.csv").columns["a"] == ["data v"]
    write(tmp_path / "3.csv", "a,c\n1,2\n")
    with pytest.raises(UserError, match="different columns") as error:
        read(tmp_path / "*.csv")
    assert error.value.where == f"{tmp_path}/3.csv"


# --- Mistakes -------------------------------------------------------------------------------

SHAPES = [
    ([], "", "an object"),
    ({"data": {}}, ": data", "a list"),
    ({"dta": []}, "", "'data'"),
    ({"data": [{"paragraphs": ["x"]}]}, ": data[0].paragraphs[0]", "an object"),
    (squad({"question": "q", "answers": []}), ": data[0].paragraphs[0].qas[0]", "'id'"),
    (squad(question("1", ("x", "7"))), ".qas[0].answers[0].answer_start", "a whole number"),
    (squad(question("1", ("x", True))), ".qas[0].answers[0].answer_start", "a whole number"),
    (squad(question("1", ("x", 1), is_impossible=True)), ".qas[0]", "is_impossible=false"),
    (squad(question("1"), question("1")), ".qas[1]", "id of its own"),
    (squad(), "", "at least one row"),
]


@pytest.mark.parametrize(("data", "where", "expected"), SHAPES)
def test_json_of_another_shape_than_squads_is_told_by_its_place(tmp_path, data, where, expected):
    path = write(tmp_path / "t.json", json.dumps(data))
    with pytest.raises(UserError) as error:
        read(path, format="squad")
    assert error.value.where.startswith(path) and error.value.where.endswith(where)
    assert expected in error.value.expected and error.value.got is not None


WRONG = [
    ("t.csv", "", {}, "without a header", ""),
    ("t.csv", "\n\n", {}, "without a header", ""),
    ("t.csv", "a,b\n", {}, "without rows", ""),
    ("t.csv", "a,b\n1,2\n3\n4\n5,6\n", {}, "too few values", ":3"),
    ("t.csv", 'a,b\n"x\ny",2\n3,4,5\n', {}, "too many values", ":4"),
    ("t.csv", 'a,b\n1,2\n3,"open\n4,5\n', {}, "not CSV", ":3"),
    ("t.csv", "a,b,a\n1,2,3\n", {}, "occurs twice", ":1"),
    ("t.csv", "a,b\n1,2\n", {"columns": ("a", "b")}, "a header line", ":1"),
    ("t.csv", b"a,b\n1,\xff\xfe\n", {}, "not utf-8", ":2"),
    ("t.csv", "a,b\n1,2\n".encode("utf-16-le"), {}, "binary", ":1"),
    ("t.csv", "a,b\n1,2\n".encode("utf-16"), {}, "binary|not utf-8", ":1"),
    ("t.csv", "a,b\r1,2\r", {}, "not CSV", ":1"),
    ("t.tsv", "a\tb\n1\t2\n3\t4\t5\n", {}, "too many values", ":3"),
    ("t.csv.gz", b"not packed", {}, "cannot be read", ""),
    ("t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 9, mtime=0)[:-9], {}, "cannot be read", ""),
    ("t.csv.bz2", b"not packed", {}, "cannot be read", ""),
    ("t.jsonl", "", {}, "without rows", ""),
    ("t.jsonl", '{"a": 1}\n{"a": \n', {}, "not a JSON object", ":2"),
    ("t.jsonl", '[{"a": 1}]\n', {}, "not a JSON object", ":1"),
    ("t.jsonl", '{"a": 1}\n' + "[" * 100_000, {}, "not a JSON object", ":2"),
    ("t.jsonl", b'{"a": "\xff"}\n', {}, "not utf-8", ":1"),
    ("t.json", "", {}, "not JSON", ":1"),
    ("t.json", '{"data":\n[,]}', {}, "not JSON", ":2"),
    ("t.parquet", b"", {}, "not parquet", ""),
    ("t.parquet", b"PAR1 and no more", {}, "not parquet", ""),
    ("t.conll", "", {}, "without rows", ""),
    ("t.conll", "-DOCSTART- O\n\n", {}, "without rows", ""),
    ("t.conll", conll(["a O", "b"]), {}, "too few columns", ":2"),
    ("t.conll", conll(["a O"], ["b c O"]), {}, "too many columns", ":3"),
    ("t.conll", conll(["alone"]), {}, "two names stand for one", ":1"),
    ("t.conll", conll(["a O"]), {"positions": {"words": 0, "tags": 3}}, "beyond", ":1"),
    ("t.conll", conll(["a O"]), {"positions": {"words": 0, "tags": -3}}, "beyond", ":1"),
]


@pytest.mark.parametrize(("name", "content", "options", "message", "where"), WRONG)
def test_a_file_that_cannot_be_used_is_told_with_its_line(
    tmp_path, name, content, options, message, where
):
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as error:
        read(path, **options)
    assert f"{path}{where}" in error.value.where
    assert error.value.expected is not None and error.value.got is not None


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path):
    write(tmp_path / "train.csv", "a\n1\n")
    with pytest.raises(UserError, match="does not exist.*did you mean 'train.csv'") as error:
        raise_flat(tmp_path / "trian.csv")
    assert "trian.csv" in str(error.value)
    with pytest.raises(UserError, match="a folder"):
        read(tmp_path, format="csv")


def raise_flat(path):
    try:
        read(path)
    except UserError as error:
        raise UserError(" ".join(str(error).split())) from None


def test_ragged_rows_are_left_out_only_when_asked_and_counted(tmp_path):
    path = write(tmp_path / "t.csv", "a,b\n1,2\n3\n4,5,6\n7,8\n")
    with pytest.raises(UserError) as error:
        read(path)
    assert "1 more such row" in error.value.got
    said = []
    table = read_table(TableFile(path=path, ragged_rows="leave_out"), said.append)
    assert table.columns == {"a": ["1", "7"], "b": ["2", "8"]}
    assert said == [f"{path}: left out 2 rows without 2 values, first line 3"]


OPTIONS = [
    ({"path": "t.txt"}, "format"),
    ({"path": "t.parquet.foo"}, "format"),
    ({"path": "t.jsonl", "delimiter": ","}, "delimiter"),
    ({"path": "t.csv", "positions": {"words": 1}}, "positions"),
    ({"path": "t.conll", "positions": {}}, "positions"),
    ({"path": "t.csv", "delimiter": "::"}, "delimiter"),
    ({"path": "t.csv", "columns": ["a", "a"]}, "columns"),
    ({"path": "t.csv", "skip_lines": -1}, "skip_lines"),
    ({"path": "t.csv", "encoding": "utf-16"}, "encoding"),
    ({"path": "t.csv", "encoding": "utf-ate"}, "encoding"),
]


@pytest.mark.parametrize(("options", "where"), OPTIONS)
def test_options_that_mean_nothing_are_refused(options, where):
    with pytest.raises(UserError) as error:
        configs.build(TableSplits, {"train": {"name": "file", **options}})
    assert error.value.where == f"train.{where}"


def test_a_recipe_makes_the_configuration_and_help_documents_all_of_it():
    data = {"train": {"name": "file", "path": "t.conll", "positions": {"words": 1, "tags": 3}}}
    built = configs.build(TableSplits, data)
    assert isinstance(built.train, TableFile)
    assert built.train.positions == {"words": 1, "tags": 3} and built.train.kind == "conll"
    assert configs.build(TableSplits, configs.to_dict(built)) == built
    for cls in (TableSplits, TableFile, TableHub):
        fields = set(cls.__dataclass_fields__) - {"name"}
        assert fields <= set(configs.field_docs(cls))


def test_a_misspelt_column_is_told_with_those_there_are():
    table = Table({"text": ["a"], "label": ["b"]}, ["t.csv:2"], "t.csv")
    with pytest.raises(UserError) as error:
        table.column("lable", "task.label")
    assert error.value.where == "task.label, in t.csv" and error.value.got == "'lable'"
    assert error.value.expected == "one of 'text', 'label'"
    assert error.value.fix == "did you mean 'label'?"


def test_all_columns_that_are_not_there_are_told_in_one_error():
    table = Table({"review": ["a"], "verdict": ["b"]}, ["t.csv:2"], "t.csv")
    with pytest.raises(UserError, match="no such columns") as error:
        table.check({"task.text": "reveiw", "task.pair": "review", "task.label": "lbl"})
    assert error.value.where == "task.text, task.label, in t.csv"
    assert error.value.got == "'reveiw', 'lbl'" and "'verdict'" in error.value.expected
    assert error.value.fix == "task.text: did you mean 'review'?"


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_header_that_was_not_parted_is_told(tmp_path, mark):
    path = write(tmp_path / "t.csv", f"text{mark}label\na{mark}b\n")
    with pytest.raises(UserError, match="no such column") as error:
        read(path).column("label", "task.label")
    advice = error.value.fix.rpartition("set ")[2]
    table = read_table(input_file(path, options=[advice]))
    assert table.columns == {"text": ["a"], "label": ["b"]}


@pytest.mark.parametrize("line", ["sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_where_excel_names_the_delimiter_is_no_header(tmp_path, line, ending, end):
    lines = [line, "text;label", "a, b;x", "", "c;y"]
    path = write(tmp_path / f"t.{ending}", end.join(lines))
    table = read(path)
    assert table.columns == {"text": ["a, b", "c"], "label": ["x", "y"]}
    assert lines_of(table) == [3, 5] and read(path, delimiter=";") == table
    bare = read(write(tmp_path / f"u.{ending}", end.join([line, *lines[2:]])), columns=("t", "l"))
    assert bare.columns == {"t": ["a, b", "c"], "l": ["x", "y"]} and lines_of(bare) == [2, 4]
    with pytest.raises(UserError, match="another delimiter") as error:
        read(path, delimiter=",")
    assert error.value.where == f"{path}:1"


def test_an_empty_file_has_no_line_to_look_at(tmp_path):
    for content in ("", "sep=;", "sep=;\n"):
        with pytest.raises(UserError, match="without a header"):
            read(write(tmp_path / "t.csv", content))


def test_values_of_another_kind_are_told_with_their_place():
    columns = {"text": ["a", None], "score": ["1.5", " 2e1 "], "bad": [1, "1_0"], "odd": [1, True]}
    table = Table(columns, ["t.csv:2", "t.csv:3"])
    assert table.numbers("score") == [1.5, 20.0] and table.strings("score") == columns["score"]
    for broken in (
        lambda: table.strings("text"),
        *(lambda n=n: table.numbers(n) for n in ("bad", "odd")),
    ):
        with pytest.raises(UserError) as error:
            broken()
        assert error.value.where == "t.csv:3"
    with pytest.raises(ValueError, match="not of 1 rows"):
        Table({"a": [1, 2]}, ["x"])


# --- Splits ---------------------------------------------------------------------------------


def labelled(tmp_path, labels, **options):
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(labels))
    path = write(tmp_path / "train.csv", "id,label\n" + rows)
    return TableSplits(train=TableFile(path=path), **options)


def split_of(tmp_path, labels, label_column="label", **options):
    said = []
    tables = read_splits(labelled(tmp_path, labels, **options), label_column, said.append)
    return {name: [int(i) for i in t.columns["id"]] for name, t in tables.items()}, said


def test_values_that_are_no_classes_are_held_out_at_random(tmp_path):
    """Numbers to predict, and lists of tags as strings, are nearly all different."""
    numbers = [f"{i / 7:.3f}" for i in range(50)]
    config = labelled(tmp_path, numbers, validation_fraction=0.2)
    with pytest.raises(UserError, match="too few rows"):
        read_splits(config, "label", print)
    tables = read_splits(config, "label", print, has_classes=False)
    assert len(tables["validation"]) == 10
    with pytest.raises(UserError, match="too few rows"):
        read_splits(dataclasses.replace(config, stratify=True), "label", print, has_classes=False)


@pytest.mark.parametrize("label_column", ["label", None])
def test_held_out_rows_are_apart_and_depend_on_the_seed_alone(tmp_path, label_column):
    labels = ["ab"[i % 3 == 0] for i in range(200)]
    options = {"validation_fraction": 0.2, "test_fraction": 0.15, "label_column": label_column}
    parts, said = split_of(tmp_path, labels, **options)
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 130,
        "validation": 40,
        "test": 30,
    }
    assert sorted(i for rows in parts.values() for i in rows) == list(range(200))
    assert all(rows == sorted(rows) for rows in parts.values())
    assert split_of(tmp_path, labels, **options)[0] == parts
    assert split_of(tmp_path, labels, **options, seed=1)[0] != parts
    assert "130 for train" in said[0] and "seed 0" in said[0]
    options["validation_fraction"] = 0.4
    assert split_of(tmp_path, labels, **options)[0]["test"] == parts["test"]


def test_the_draw_does_not_change_between_versions(tmp_path):
    parts, _ = split_of(tmp_path, "ab" * 15)
    assert parts["validation"] == [4, 11, 28]


def test_labels_are_held_out_in_proportion(tmp_path):
    labels = ["a"] * 50 + ["b"] * 30 + ["c"] * 15 + ["d"] * 5
    parts, said = split_of(tmp_path, labels, validation_fraction=0.1)
    # Quotas 5, 3, 1.5, 0.5 of 10 in all: the tie of remainders goes to the more frequent label.
    assert Counter(labels[i] for i in parts["validation"]) == {"a": 5, "b": 3, "c": 2}
    assert said[1] == "1 label ('d') with too few rows to have one in validation"
    loose, _ = split_of(tmp_path, labels, validation_fraction=0.1, stratify=False)
    assert len(loose["validation"]) == 10 and loose != parts


def test_a_label_with_one_row_stays_in_train_and_is_told(tmp_path):
    labels = ["a"] * 6 + ["rare"] + ["b"] * 2
    parts, said = split_of(tmp_path, labels, validation_fraction=0.5, test_fraction=0.4)
    assert 6 in parts["train"] and {labels[i] for i in parts["train"]} == {"a", "b", "rare"}
    assert any("1 label ('rare') with one row: kept in train" in text for text in said)


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    share=st.fractions(0, Fraction(9, 10), max_denominator=40),
)
def test_shares_are_rounded_by_largest_remainders(counts, share):
    drawn = allot(counts, [count - 1 for count in counts], share)
    assert all(0 <= n < count for n, count in zip(drawn, counts))
    limited = any(share * count > count - 1 for count in counts)
    if not limited:
        total = sum(counts)
        assert abs(sum(drawn) - share * total) <= Fraction(1, 2)
        assert all(abs(n - share * count) < 1 for n, count in zip(drawn, counts))
        up = [share * c - int(share * c) for n, c in zip(drawn, counts) if n > share * c]
        down = [share * c - int(share * c) for n, c in zip(drawn, counts) if n < share * c]
        assert not up or not down or min(up) >= max(down)


def test_given_splits_are_used_as_they_are(tmp_path):
    validation = TableFile(path=write(tmp_path / "dev.csv", "label,id\na,7\n"))
    parts, said = split_of(tmp_path, "ab" * 5, validation=validation)
    assert parts == {"train": list(range(10)), "validation": [7]} and not said
    parts, _ = split_of(tmp_path, "ab" * 5, validation=validation, test_fraction=0.2)
    assert len(parts["test"]) == 2 and len(parts["train"]) == 8 and parts["validation"] == [7]
    assert list(parts) == ["train", "validation", "test"]
    assert list(split_of(tmp_path, "ab" * 5, validation_fraction=0.0)[0]) == ["train"]


def test_every_split_must_have_the_label_column(tmp_path):
    validation = TableFile(path=write(tmp_path / "dev.csv", "lable,id\na,7\n"))
    with pytest.raises(UserError, match="did you mean 'lable'"):
        split_of(tmp_path, "ab" * 5, validation=validation)


def test_what_cannot_be_split_is_refused(tmp_path):
    with pytest.raises(UserError, match="too few rows"):
        split_of(tmp_path, "aab")
    with pytest.raises(UserError, match="too few rows"):
        split_of(tmp_path, "abcdefghijk", validation_fraction=0.5)
    with pytest.raises(UserError, match="nothing is left"):
        labelled(tmp_path, "ab", validation_fraction=0.5, test_fraction=0.5)
    with pytest.raises(UserError, match="both given and held out"):
        labelled(tmp_path, "ab", test=TableFile(path="t.csv"), test_fraction=0.1)
    with pytest.raises(UserError, match="two splits are the same"):
        labelled(tmp_path, "ab", test=TableFile(path=str(tmp_path / "train.csv")))
    for name, value in [("seed", -1), ("validation_fraction", -0.1), ("test_fraction", -1.0)]:
        with pytest.raises(UserError) as error:
            labelled(tmp_path, "ab", **{name: value})
        assert error.value.where == name


def test_what_is_no_single_label_is_not_stratified_by(tmp_path):
    rows = [{"tags": [i % 2], "none": None if i == 4 else "a"} for i in range(20)]
    path = write(tmp_path / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    config = {"train": TableFile(path=path)}
    assert len(read_splits(TableSplits(**config), "tags", print)["validation"]) == 2
    with pytest.raises(UserError, match="cannot be stratified") as error:
        read_splits(TableSplits(**config, stratify=True), "tags")
    assert f"{path}:1" in error.value.where
    with pytest.raises(UserError, match="no labels to stratify by"):
        read_splits(TableSplits(**config, stratify=True), None)
    with pytest.raises(UserError, match="a row has no label") as error:
        read_splits(TableSplits(**config), "none")
    assert error.value.where == f"{path}:5"


def test_the_configurations_load_nothing_heavy():
    code = "import sys, jaxssl.data.tables.table; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in out.stdout.split()}
    assert not loaded & {"jax", "datasets", "pyarrow", "pandas", "numpy", "torch"}


# --- A few rows of each label ---------------------------------------------------------------------


def few_of(tmp_path, labels, per_label, draw=0, **options):
    config, said = labelled(tmp_path, labels, per_label=per_label, **options), []
    tables = read_splits(config, "label", said.append, draw=draw)
    return {name: [int(i) for i in table.columns["id"]] for name, table in tables.items()}, said


def test_a_few_rows_of_each_label_are_drawn_by_seed_and_nest(tmp_path):
    labels = "".join("abb"[i % 3] for i in range(90))
    parts, said = few_of(tmp_path, labels, 4, validation_fraction=0.2)
    chosen = parts["train"]
    assert sorted(chosen) == chosen and not {*chosen} & {*parts["validation"]}
    assert [sum(labels[i] == label for i in chosen) for label in "ab"] == [4, 4]
    assert "8 of 72 rows" in said[-1]
    more, _ = few_of(tmp_path, labels, 8, validation_fraction=0.2)
    other, _ = few_of(tmp_path, labels, 4, draw=1, validation_fraction=0.2)
    assert {*chosen} < {*more["train"]} and chosen != other["train"]
    assert parts["validation"] == more["validation"] == other["validation"]


def test_a_label_with_too_few_rows_gives_all_and_is_told(tmp_path):
    parts, said = few_of(tmp_path, "aaaaab", 3, validation_fraction=0.0)
    assert len(parts["train"]) == 4 and 5 in parts["train"]
    assert "1 label ('b') with fewer rows than per_label=3" in said[-1]


def test_a_few_rows_need_labels(tmp_path):
    with pytest.raises(UserError, match="no labels to take a few rows of"):
        read_splits(labelled(tmp_path, "ab" * 5, per_label=2, validation_fraction=0.0), None)
    with pytest.raises(UserError, match="at least 1|>= 1"):
        labelled(tmp_path, "ab", per_label=0)
