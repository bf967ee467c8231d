"""What a fine-tuned run says of files: right, in order, streamed, and whole or absent."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import several
import toy
import tuned

from jaxssl import cli
from jaxssl.commands import predict
from jaxssl.commands.without_text import chosen, rows_with_text
from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.table import Table
from jaxssl.run.open import open_run
from jaxssl.run.sealing import seal_run
from jaxssl.run.train import train_run
from jaxssl.tasks.answer.questions import read_ids
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.base import Encoded
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.entities import CharacterEntities, MarkedEntities, WordEntities
from jaxssl.tasks.relate.task import Relate
from jaxssl.tasks.tag.task import Tag

WORDS = "the cat sees a bird in the garden near my old sister at home".split()


@pytest.fixture(scope="module")
def run(base, table, tmp_path_factory):
    """Fine-tuned to tell animals from people, for nine steps."""
    out = tmp_path_factory.mktemp("predicting") / "run"
    train_run(tuned.configured(base, table, out, "train.epochs=1"), lambda text: None)
    return out


@pytest.fixture(scope="module")
def predictor(run):
    return predict.open_predictor(run)


@pytest.fixture(autouse=True)
def opened_once(run, predictor, monkeypatch):
    """Opens that run once for all tests: it compiles its lengths again when it is opened again."""
    again = predict.open_predictor
    monkeypatch.setattr(
        predict,
        "open_predictor",
        lambda path, step, layers, *more: (
            predictor if Path(path) == run and not layers else again(path, step, layers, *more)
        ),
    )
    return again


def texts_of(count, seed=0, most=40):
    """Texts of 1 to `most` words, long and short ones mixed."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most + 1))) for _ in range(count)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 16 rows, two batches."""
    monkeypatch.setattr(predict, "CHUNK_ROWS", 16)


def predicted(run, given, output, **options):
    said = []
    rows = predict.predict(run, given, output, note=said.append, **options)
    return rows, said


# --- Right, and in order ------------------------------------------------------------------------


def shares_alone(run, texts):
    """Probabilities of each text by a forward pass of its own, without padding to speak of."""
    opened = open_run(run)
    ids = opened.tokenizer.special_ids
    kernel = opened.params["classify"]["output"]

    @jax.jit
    def hidden_states(batch):
        return opened.model.encode(opened.params, batch)

    for text in texts:
        tokens = opened.tokenizer.encode_batch([text])[0][:22]
        tokens = np.array([ids["cls"], *tokens, ids["sep"]], np.int32)
        batch = {"tokens": tokens, "segment_ids": np.ones_like(tokens)}
        batch["positions"], batch["token_types"] = np.arange(len(tokens)), np.zeros_like(tokens)
        short = 24 - len(tokens)
        with jax.set_mesh(opened.mesh):
            hidden = hidden_states({k: np.pad(v, (0, short))[None] for k, v in batch.items()})
        mean = np.asarray(hidden, np.float64)[0, : len(tokens)].mean(axis=0)
        logits = mean @ np.asarray(kernel["kernel"]) + np.asarray(kernel["bias"])
        yield np.exp(logits) / np.exp(logits).sum()


def test_each_row_gets_what_a_forward_pass_of_it_alone_says(run, predictor, small_chunks, tmp_path):
    texts = texts_of(70)
    given = write_jsonl(tmp_path / "t.jsonl", [{"n": i, "text": t} for i, t in enumerate(texts)])
    rows, _ = predicted(run, given, tmp_path / "out.jsonl")
    out = lines_of(tmp_path / "out.jsonl")
    assert rows == len(out) == 70
    assert [(row["n"], row["text"]) for row in out] == list(enumerate(texts))
    got = np.array([[row["probabilities"][label] for label in tuned.LABELS] for row in out])
    want = np.array(list(shares_alone(run, texts)))
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert [row["label"] for row in out] == [tuned.LABELS[i] for i in want.argmax(axis=1)]
    assert len({round(share, 4) for share in want[:, 0]}) > 40  # mixed-up rows would be noticed
    places = [f"line {i}" for i in range(70)]
    whole = predictor.predict(Table({"text": texts}, places))  # one chunk, another order inside
    for one, other in zip(whole, out, strict=True):
        assert one["label"] == other["label"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_each_length_is_compiled_once_however_many_chunks_there_are(
    run, small_chunks, opened_once, tmp_path, monkeypatch
):
    traced = []
    make = predict.make_predict_step

    def counted(*given):
        step = make(*given)

        def counting(params, batch):
            traced.append(batch["tokens"].shape)
            return step(params, batch)

        return counting

    monkeypatch.setattr(predict, "make_predict_step", counted)
    monkeypatch.setattr(predict, "open_predictor", opened_once)
    given = write_jsonl(tmp_path / "t.jsonl", [{"text": t} for t in texts_of(200, most=20)])
    predicted(run, given, tmp_path / "out.jsonl")
    assert sorted(traced) == [(8, length) for length in (8, 16, 24)]


def test_one_device_alone_says_what_eight_say(run, table, tmp_path):
    arguments = ["predict", run, "--input", table, "--output"]
    one = toy.start([*arguments, tmp_path / "one.jsonl"], devices=1)
    assert jax.device_count() == 8
    assert cli.main([str(x) for x in (*arguments, tmp_path / "eight.jsonl")]) == 0
    code, out, err = toy.finish(one)
    assert code == 0 and "90 rows" in err and not out, err
    for a, b in zip(
        lines_of(tmp_path / "one.jsonl"), lines_of(tmp_path / "eight.jsonl"), strict=True
    ):
        assert a.pop("probabilities") == pytest.approx(b.pop("probabilities"), abs=2e-6)
        assert a == b and len(a) == 3


def test_two_processes_write_what_one_does_once(run, table, tmp_path):
    arguments = ["predict", run, "--input", table, "--output"]
    processes = several.start_verb([*arguments, tmp_path / "two.jsonl"], 2)
    assert cli.main([str(x) for x in (*arguments, tmp_path / "one.jsonl")]) == 0
    (first, _, said), (second, _, silent) = [toy.finish(process) for process in processes]
    assert first == second == 0, said + silent
    assert "90 rows" in said and "predict" not in silent
    for a, b in zip(
        lines_of(tmp_path / "two.jsonl"), lines_of(tmp_path / "one.jsonl"), strict=True
    ):
        assert a.pop("probabilities") == pytest.approx(b.pop("probabilities"), abs=2e-6)
        assert a == b
    assert len(list(tmp_path.iterdir())) == 2


# --- Tasks whose rows are not one an example ----------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Halves:
    """A task of windows: two rows for a text with "|" in it, none for an empty one."""

    whole: object

    def __getattr__(self, name):
        return getattr(self.whole, name)

    def encode(self, table, tokenizer, max_length, split, *, labelled=True):
        parts = [(i, p) for i, text in enumerate(table.columns["text"]) for p in text.split("|")]
        parts = [(i, part) for i, part in parts if part]
        texts = [part for _, part in parts] or ["none"]
        rows = Table({"text": texts}, texts)
        encoded = self.whole.encode(rows, tokenizer, max_length, split, labelled=labelled)
        examples = encoded.examples
        if not parts:
            examples = dataclasses.replace(
                examples, starts=examples.starts[:1], second=examples.second[:0]
            )
        return Encoded(examples, [(i, len(table)) for i, _ in parts], (f"{split}: {len(parts)}",))

    def outputs(self, predictions, references):
        count = references[0][1] if references else 2
        sums = np.zeros((count, 2))
        for (i, _), logits in zip(references, predictions.get("logits", [])):
            sums[i] += logits
        return [{"sum": row.tolist()} for row in sums]


def test_examples_of_several_rows_or_none_give_one_output_each(predictor):
    halves = dataclasses.replace(predictor, task=Halves(predictor.task))
    texts = texts_of(12, most=9)
    joined = ["|".join(texts[:2]), texts[2], "", "|".join(texts[3:12])]
    out = halves.predict(Table({"text": joined}, joined))
    step = lambda rows: predictor.step(predictor.trained.params, rows)
    examples = predictor.encode(Table({"text": texts}, texts)).examples
    with jax.set_mesh(predictor.trained.mesh):
        first, second = (
            np.asarray(step(examples.rows(rows, 24, 0))["logits"])
            for rows in (np.arange(8), np.append(np.arange(8, 12), [-1] * 4))
        )
    logits = np.concatenate([first, second[:4]])
    want = [logits[:2].sum(0), logits[2], [0, 0], logits[3:].sum(0)]
    np.testing.assert_allclose([row["sum"] for row in out], want, atol=1e-5)
    assert halves.predict(Table({"text": ["", ""]}, ["a", "b"])) == [{"sum": [0, 0]}] * 2
    assert predictor.predict(Table({"text": []}, [])) == []


# --- Input and output ---------------------------------------------------------------------------


def test_the_input_comes_before_the_prediction_and_neither_hides_the_other(run, tmp_path):
    row = {"label": "gold", "text": "the cat", "input_label": 1, "none": None, "nan": float("nan")}
    given = write_jsonl(tmp_path / "t.jsonl", [row, {"text": "my sister", "none": [1]}])
    _, said = predicted(run, given, tmp_path / "out.jsonl")
    first, second = lines_of(tmp_path / "out.jsonl")
    names = ["input_label", "text", "input_input_label", "label", "probabilities"]
    assert list(first) == names and first["input_label"] == "gold" and first["label"] != "gold"
    assert list(second) == ["text", "none", "label", "probabilities"]
    renamed = "label as input_label, input_label as input_input_label"
    assert said == [f"columns of the input whose names predictions have: {renamed}"]
    _, said = predicted(run, given, tmp_path / "bare.jsonl", keep_input=False)
    kept = [{name: row[name] for name in names[-2:]} for row in (first, second)]
    assert lines_of(tmp_path / "bare.jsonl") == kept and not said


def test_a_column_may_have_another_name_than_in_training(run, tmp_path):
    given = write_jsonl(tmp_path / "t.jsonl", [{"review": "the cat"}, {"review": "my sister"}])
    predicted(run, given, tmp_path / "other.jsonl", layers=["task.text=review"], keep_input=False)
    given = write_jsonl(tmp_path / "t.jsonl", [{"text": "the cat"}, {"text": "my sister"}])
    predicted(run, given, tmp_path / "usual.jsonl", keep_input=False)
    assert lines_of(tmp_path / "other.jsonl") == lines_of(tmp_path / "usual.jsonl")


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_table_comes_back_with_its_rows_and_the_predictions_beside_them(run, tmp_path, ending):
    given = tmp_path / "t.csv"
    given.write_text('id,text,label\n1,"the cat, ""old""",x\n2,my sister,\n')
    predicted(run, given, tmp_path / "out.jsonl")
    predicted(run, given, tmp_path / f"out.{ending}")
    table = read_table(TableFile(path=str(tmp_path / f"out.{ending}")))
    assert table.columns.pop("probabilities") == [
        json.dumps(row["probabilities"]) for row in lines_of(tmp_path / "out.jsonl")
    ]
    assert table.columns == {
        "id": ["1", "2"],
        "text": ['the cat, "old"', "my sister"],
        "input_label": ["x", ""],
        "label": [row["label"] for row in lines_of(tmp_path / "out.jsonl")],
    }


def test_a_text_file_is_a_text_a_line_and_several_files_are_one(run, predictor, tmp_path, capsys):
    texts = texts_of(5, most=9)
    for number, part in enumerate((texts[:2], texts[2:])):
        (tmp_path / f"{number}.txt").write_text("\n".join(part) + "\n")
    files = [str(tmp_path / name) for name in ("1.txt", "0.txt")]
    assert cli.main(["predict", str(run), "--output", "-", "--input", *files]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == texts[2:] + texts[:2]
    whole = predictor.predict(Table({"text": texts[2:] + texts[:2]}, ["here"] * 5))
    assert [row["label"] for row in rows] == [row["label"] for row in whole]


def test_options_of_the_training_tables_are_not_taken_over_and_that_is_said(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text()
    assert "delimiter: null" in config
    (copy / "config.yaml").write_text(config.replace("delimiter: null", "delimiter: ;", 1))
    seal_run(copy)
    given = tmp_path / "t.csv"
    given.write_text("text,n\nthe cat,1\n")
    _, said = predicted(copy, given, tmp_path / "a.jsonl")
    assert "delimiter=';'" in said[0] and "--set" in said[0]
    given.write_text("text;n\nthe cat;1\n")
    _, said = predicted(copy, given, tmp_path / "b.jsonl", options=["delimiter=;"])
    assert not said
    assert lines_of(tmp_path / "a.jsonl") == lines_of(tmp_path / "b.jsonl")


def test_truncation_is_said_in_all_with_numbers(run, small_chunks, tmp_path):
    lengths = [5, 30, 22, 23, 40] * 10
    given = write_jsonl(tmp_path / "t.jsonl", [{"text": " ".join(["cat"] * n)} for n in lengths])
    _, said = predicted(run, given, tmp_path / "out.jsonl")
    room = 24 - 2
    rows, lost = sum(n > room for n in lengths), sum(max(0, n - room) for n in lengths)
    assert len(said) == 1 and f"{rows} of 50 rows (60.0%)" in said[0]
    assert f"lose {lost} tokens" in said[0] and "WARNING" in said[0]


# --- Rows without text --------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_rows_without_text_get_no_prediction_and_are_counted(run, small_chunks, tmp_path, ending):
    texts = texts_of(40, most=9)
    nothing = {0: None, **dict.fromkeys(range(1, 20), "  "), 33: "", 39: float("nan")}
    rows = [{"n": i, "text": nothing.get(i, text)} for i, text in enumerate(texts)]
    given = write_jsonl(tmp_path / "t.jsonl", rows)  # the first chunk has none that is predicted
    count, said = predicted(run, given, tmp_path / f"out.{ending}")
    assert count == 40 and said[-1].startswith("predict: 22 of 40 rows have no text")
    assert said[-1].endswith(f"{given}:1")
    out = read_table(TableFile(path=str(tmp_path / f"out.{ending}"))).columns
    empty = None if ending == "jsonl" else ""
    assert [int(n) for n in out["n"]] == list(range(40))
    found = [i for i, label in enumerate(out["label"]) if label != empty]
    assert found == [i for i in range(40) if i not in nothing]
    assert [i for i, shares in enumerate(out["probabilities"]) if shares != empty] == found
    alone = write_jsonl(tmp_path / "u.jsonl", [rows[i] for i in found])
    _, said = predicted(run, alone, tmp_path / f"alone.{ending}")
    same = read_table(TableFile(path=str(tmp_path / f"alone.{ending}"))).columns["label"]
    assert [out["label"][i] for i in found] == same and not said


TEXTS_OF = [
    (Classify(), {"text": "a"}),
    (Regress(pair="b"), {"text": "a", "b": "b"}),
    (Tag(words="w"), {"w": ["\u2028"]}),
    (Answer(), {"question": "a", "context": "b"}),
    (Relate(), {"text": "a"}),
    (Relate(entities=WordEntities()), {"words": ["a"]}),
    (Relate(entities=CharacterEntities(text="t")), {"t": "a"}),
]


@pytest.mark.parametrize(("task", "row"), TEXTS_OF)
def test_a_row_needs_a_text_in_each_column_that_its_task_reads(task, row):
    names = list(task.text_columns.values())
    assert names == list(row)
    columns = [[row[name]] for name in names]
    assert rows_with_text(columns, task.has_text) == [0]
    for at in range(len(names)):
        for value in (
            None,
            float("nan"),
            "",
            " \n",
            *([[], "[]"] if row[names[at]] == ["a"] else []),
        ):
            missing = [[value] if i == at else column for i, column in enumerate(columns)]
            assert rows_with_text(missing, task.has_text) == []


def test_questions_keep_their_numbers_where_others_have_no_text():
    columns = {"question": ["a", None, "c"], "context": ["x", "y", "z"]}
    table = Table(columns, ["1", "2", "3"], row_numbers=range(16, 19))
    assert read_ids(chosen(table, [0, 2]), None) == ["16", "18"]


# --- Streams, whole or absent -------------------------------------------------------------------


def test_tables_know_how_many_rows_of_all_files_come_before_them(predictor, small_chunks, tmp_path):
    given = write_jsonl(tmp_path / "t.jsonl", [{"text": text} for text in texts_of(20, most=5)])
    files = [TableFile(path=str(given))] * 2
    starts = [table.row_numbers[0] for table, _ in predict.predictions_of(predictor, files)]
    assert starts == [0, 16, 20, 36]


def test_rows_are_predicted_before_the_file_is_read_to_its_end(predictor, small_chunks, tmp_path):
    given = write_jsonl(tmp_path / "t.jsonl", [{"text": t} for t in texts_of(5000, most=5)])
    with given.open("a") as file:
        file.write("no json")
    tables = predict.predictions_of(predictor, [TableFile(path=str(given))])
    for _ in range(3):
        table, rows = next(tables)
        assert len(table) == len(rows) == 16
    tables.close()


def test_a_mistake_far_down_leaves_no_output_and_what_was_there(run, small_chunks, tmp_path):
    rows = [{"text": text} for text in texts_of(40, most=9)]
    given = write_jsonl(tmp_path / "t.jsonl", [*rows, {"text": 3}, *rows])
    with pytest.raises(UserError, match=r"cannot be used(?s:.*)t.jsonl:41"):
        predicted(run, given, tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [given]
    (tmp_path / "out.jsonl").write_text("before")
    with pytest.raises(UserError, match="cannot be used"):
        predicted(run, given, tmp_path / "out.jsonl", overwrite=True)
    assert (tmp_path / "out.jsonl").read_text() == "before" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_an_interrupted_command_goes_on_after_what_is_written(
    run, small_chunks, tmp_path, monkeypatch, ending
):
    """The bytes and what is told are those of one go, and nothing is predicted again."""
    texts = [None, "", *texts_of(38, most=30)]
    given = write_jsonl(tmp_path / "t.jsonl", [{"text": t, "n": i} for i, t in enumerate(texts)])
    _, whole = predicted(run, given, tmp_path / f"whole.{ending}")
    assert any("have no text" in text for text in whole) and any("lose" in text for text in whole)
    predict_encoded, out = predict.Predictor.predict_encoded, tmp_path / f"out.{ending}"
    part, seen = out.with_name(f"{out.name}.part"), []

    def interrupted(self, encoded):
        seen.append(part.read_bytes())
        if len(seen) == 3:
            raise KeyboardInterrupt
        return predict_encoded(self, encoded)

    monkeypatch.setattr(predict.Predictor, "predict_encoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predicted(run, given, out)
    assert (tmp_path / f"whole.{ending}").read_bytes().startswith(seen[2]) and len(seen[2]) > 999
    assert not out.exists()
    with pytest.raises(UserError, match="a change of: keep_input\n"):
        predicted(run, given, out, keep_input=False)
    text = given.read_text()
    given.write_text(text.replace("cat", "dog"))
    with pytest.raises(UserError, match="a change of: input\n"):
        predicted(run, given, out)
    given.write_text(text)
    with part.open("ab") as file:
        file.write(b'{"text": "half a li')
    count, said = predicted(run, given, out)
    assert count == 40 and len(seen) == 4
    assert said == [f"{out}: 32 rows are there already, and it goes on after them", *whole]
    assert out.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [out.name, "t.jsonl", f"whole.{ending}"]
    )


# --- Mistakes -----------------------------------------------------------------------------------

MISTAKES = [
    ("not fine-tuned", {"run": "base"}, "made by `jaxssl finetune`|that `jaxssl finetune` made"),
    ("no run", {"run": "nowhere"}, "not a run directory"),
    ("no file", {"input": "no.csv"}, "does not exist"),
    ("no column", {"input": "other.csv"}, "(?s)no such column.*did you mean 'txt'"),
    ("empty texts", {"input": "blank.csv"}, "(?s)no row has a text.*blank.csv:2"),
    ("blank lines", {"input": "blank.txt"}, "(?s)no row has a text.*blank.txt:1"),
    ("no texts", {"input": "null.jsonl"}, "(?s)no row has a text.*null.jsonl:1"),
    ("a number", {"input": "number.jsonl"}, "(?s)column 'text' cannot be used.*number.jsonl:2"),
    ("half a character", {"input": "half.jsonl"}, "whole characters"),
    ("empty file", {"input": "empty.csv"}, "without a header"),
    ("no rows", {"input": "header.csv"}, "without rows"),
    ("empty text file", {"input": "empty.txt"}, "without rows"),
    ("no directory", {"output": "no/out.jsonl"}, "its directory does not exist"),
    ("is the input", {"output": "good.csv"}, "it is an input too"),
    ("is there", {"output": "other.csv"}, "(?s)such a file already.*--overwrite"),
    ("is a directory", {"output": "folder"}, "it is no file"),
    ("unknown format", {"more": ["--format", "xml"]}, "(?s)format.*'xml'"),
    ("unknown ending", {"input": "good.csv.bak"}, "does not tell its format"),
    ("unknown output", {"output": "out.parquet"}, "format that is not written"),
    ("unknown option", {"more": ["--set", "delimeter=;"]}, "did you mean 'delimiter'"),
    ("no key=value", {"more": ["--set", "delimiter"]}, "key=value"),
    ("own tables", {"more": ["--with", "data.tables.train.path=x.csv"]}, "--with data.tables"),
    ("too long", {"more": ["--with", "data.max_length=99"]}, "data.max_length"),
]


@pytest.fixture
def place(tmp_path):
    for name, content in {
        "good.csv": "text\nthe cat\n",
        "good.csv.bak": "text\nthe cat\n",
        "other.csv": "txt\nthe cat\n",
        "blank.csv": "text,n\n,1\n  ,2\n",
        "blank.txt": "\n\n\u2028\n",
        "null.jsonl": '{"text": null}\n{"text": NaN}\n',
        "number.jsonl": '{"text": "the cat"}\n{"text": 1}\n',
        "half.jsonl": '{"text": "\\ud83d"}\n',
        "empty.csv": "",
        "header.csv": "text\n",
        "empty.txt": "",
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(("given", "told"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_told_and_nothing_is_written(run, base, place, capsys, given, told):
    run_dir = {"base": base, None: run}.get(given.get("run"), place / "nowhere")
    output = place / given.get("output", "out.jsonl")
    arguments = ["--input", place / given.get("input", "good.csv"), "--output", output]
    before = {path: path.is_dir() or path.read_bytes() for path in place.rglob("*")}
    code = cli.main(["predict", *map(str, [run_dir, *arguments]), *given.get("more", [])])
    err = capsys.readouterr().err
    assert code == 2 and "Traceback" not in err
    assert re.search(told, err), err
    assert before == {path: path.is_dir() or path.read_bytes() for path in place.rglob("*")}


def test_lines_of_text_are_what_tasks_of_one_text_read():
    assert Classify(text="a").text_column == Regress(text="a").text_column == "a"
    assert Classify(pair="b").text_column is None and Regress(pair="b").text_column is None
    assert Tag(words="w").text_column == "w" and Answer().text_column is None
    assert Relate(entities=MarkedEntities(text="t")).text_column == "t"
    typed = Relate(markers="typed", subj_type="s", obj_type="o")
    assert typed.text_column is None
    assert Relate(entities=CharacterEntities()).text_column is None
