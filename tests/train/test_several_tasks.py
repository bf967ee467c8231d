"""Several tasks of text to text in one run: who gets how many steps, and each its own scores."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import toy

from jaxssl.commands.predict import labelled_stream, predict
from jaxssl.core.errors import UserError
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import describe_mixture, train_run
from jaxssl.tasks.seq2seq import Seq2seq

STEPS = 4
ROWS = {"who": 60, "where": 30}
PROMPTS = {"who": "who is it: ", "where": "where is it: "}
SCORES = ("bleu", "chrf", "rougeL", "exact_match")
BY_EXAMPLES = {"name": "by_turns", "shares": "examples", "limit": 40, "temperature": 2.0}


def write(path, count, column):
    """Sentences, and what they are about or where it happens."""
    rng, rows = np.random.default_rng(count), []
    for _ in range(count):
        words = [str(rng.choice(x)) for x in (toy.NAMES, toy.VERBS, toy.PLACES)]
        rows.append({"text": " ".join(words), "target": words[column]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(place, out, mixture=None, **data):
    """A T5 of one layer from scratch on both tables."""
    plain = toy.recipe_of("masked", place, out, 304)
    del plain["objective"], plain["data"]
    plain["model"] |= {"name": "t5", "head_width": 8, "num_layers": 1}
    plain["tokenizer"] = str(place / "tokens")
    plain["train"], plain["evaluation"] = {"steps": STEPS}, {"every": 2, "best_by": "where/rougeL"}
    plain["checkpoint"], plain["mixture"] = {"every": 2, "keep_last": 9}, mixture or BY_EXAMPLES
    plain["optimizer"]["schedule"]["warmup"] = 1
    plain["logging"]["every"] = 1
    plain["streams"] = {}
    for name, prompt in PROMPTS.items():
        tables = {"train": {"name": "file", "path": str(place / f"{name}.jsonl")}}
        plain["streams"][name] = {
            "objective": {"name": "seq2seq", "prompt": prompt, "max_target_length": 8},
            "data": {
                "tables": {**tables, "validation_fraction": 0.2, **data},
                "max_length": 32,
                "batch_size": 8,
                "row_lengths": 1,
            },
        }
    return plain


def configured(*given, overrides=(), **options):
    return load_config([recipe(*given, **options)], overrides, FINETUNE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with both tables and a tokenizer."""
    place = tmp_path_factory.mktemp("several")
    toy.train_toy_tokenizer("byte_bpe").save(place / "tokens")
    for column, name in ((0, "who"), (2, "where")):
        write(place / f"{name}.jsonl", ROWS[name], column)
    return place


@pytest.fixture(scope="module")
def done(place):
    """(the run, what it said) to its end."""
    said = []
    assert train_run(configured(place, place / "run"), said.append).step == STEPS
    return place / "run", said


def rows_of_training(built):
    return {name: opened.splits["train"].num_rows for name, opened in built.streams.items()}


def test_shares_go_by_the_rows_of_training(place, tmp_path):
    """Not by those of the file: some are held out, and `per_label` takes few."""
    given = {"mixture": {"name": "by_turns", "shares": "examples"}}
    built = build(configured(place, tmp_path / "run", **given))
    assert rows_of_training(built) == {"who": 48, "where": 24}
    assert built.work.program.draws.shares(0) == pytest.approx({"who": 2 / 3, "where": 1 / 3})
    assert describe_mixture(built) == ["mixture: who 66.7%, where 33.3% of the steps"]
    few = ["streams.who.data.tables.per_label=2", "streams.where.data.batch_size=16"]
    built = build(configured(place, tmp_path / "run", overrides=few, **given))
    assert rows_of_training(built) == {"who": 2 * len(toy.NAMES), "where": 24}
    assert describe_mixture(built) == [
        "mixture: who 50.0%, where 50.0% of the steps (who 33.3%, where 66.7% of the rows)"
    ]


def test_a_share_that_moves_is_told_as_that_of_the_start(place, tmp_path):
    moves = ["streams.who.weight={points: [[0, 3.0], [100, 1.0]]}"]
    plain = {"mixture": {"name": "by_turns"}}
    built = build(configured(place, tmp_path / "run", overrides=moves, **plain))
    assert describe_mixture(built) == ["mixture: who 75.0%, where 25.0% of the steps, at step 0"]
    assert built.work.program.draws.shares(6400) == {"who": 0.5, "where": 0.5}
    built = build(configured(place, tmp_path / "run", mixture={"name": "jointly"}))
    assert describe_mixture(built) == []


@pytest.mark.parametrize(
    "change, match",
    [
        ("mixture={name: jointly, limit: 40}", "limit"),
        ("mixture.limit=0", "limit"),
        ("mixture.temperature=-1", "temperature"),
        ("mixture.temperature=.nan", "temperature"),
        ("mixture.shares=given", "neither limit nor temperature"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused(place, tmp_path, change, match):
    with pytest.raises(UserError, match=match):
        configured(place, tmp_path / "run", overrides=[change])


def test_the_prompt_is_read_before_each_text(place):
    """In training and in prediction, as if it stood in the table."""
    tokenizer = load_tokenizer(str(place / "tokens"))
    table = read_table(TableFile(path=str(place / "who.jsonl")))
    spoken = {**table.columns, "text": [PROMPTS["who"] + x for x in table.columns["text"]]}
    written = dataclasses.replace(table, columns=spoken)
    for labelled in (True, False):
        made, want = (
            task.encode(each, tokenizer, 32, "train", labelled=labelled).examples
            for task, each in ((Seq2seq(prompt=PROMPTS["who"]), table), (Seq2seq(), written))
        )
        assert np.array_equal(made.tokens, want.tokens)
        assert tokenizer.decode(made.tokens[: made.starts[1]].tolist()).startswith("who is it: ")


@pytest.mark.slow
def test_each_task_has_its_own_scores(done):
    out, said = done
    assert "mixture: who 56.4%, where 43.6% of the steps" in said  # of 40 and 24 rows, T=2
    rows = toy.rows_of(out, "validation")
    assert [row["step"] for row in rows] == [2, 4]
    for name in PROMPTS:
        assert rows[-1].keys() >= {f"{name}/{score}" for score in SCORES}
    scores = json.loads((out / "scores.json").read_text())
    assert scores["splits"].keys() == {"who/validation", "where/validation"}
    best = max(rows, key=lambda row: row["where/rougeL"])
    assert scores["step"] == best["step"]
    summary = json.loads((out / "summary.json").read_text())
    ratio = (40 / 24) ** 0.5
    wanted = {"who": ratio / (1 + ratio), "where": 1 / (1 + ratio)}
    assert summary["mixture"] == pytest.approx(wanted, abs=1e-6)
    assert f"epochs, {wanted['who']:.1%} of the steps" in (out / "report.html").read_text()


@pytest.mark.slow
def test_each_task_is_evaluated_and_predicted_by_its_name(done, place, tmp_path):
    out, _ = done
    last = toy.rows_of(out, "validation")[-1]
    for name in PROMPTS:
        values = evaluate_run(out, stream=name, step="last")
        for key in ("loss", *SCORES):
            assert values[key] == pytest.approx(last[f"{name}/{key}"], rel=1e-5, abs=1e-9)
    given = tmp_path / "given.jsonl"
    given.write_text('{"text": "the cat sees at home"}\n')
    made = {}
    for name in (None, *PROMPTS):
        said, output = [], tmp_path / f"{name}.jsonl"
        predict(out, given, output, stream=name, note=said.append)
        made[name] = output.read_text()
        assert any("--stream chooses another: where" in x for x in said) == (name is None)
    assert made[None] == made["who"] != made["where"], "each has its prompt"


def test_a_stream_without_a_task_or_that_is_not_there_predicts_nothing(place, tmp_path):
    out = tmp_path
    (out / "config.yaml").write_text(json.dumps(recipe(place, out)))
    assert labelled_stream(out).objective == labelled_stream(out, (), "who").objective
    other = labelled_stream(out, (), "where").objective
    assert isinstance(other, Seq2seq) and other.prompt == PROMPTS["where"]
    with pytest.raises(UserError, match="no such stream") as refused:
        labelled_stream(out, (), "when")
    assert refused.value.expected == "one of who, where"
    with pytest.raises(UserError, match="this stream has no task") as refused:
        labelled_stream(out, ["streams.who.objective={name: span_corruption}"], "who")
    assert refused.value.expected == "one of where"


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(done, place, tmp_path):
    """The rows after its checkpoint in place, as a kill leaves them."""
    whole, cut = done[0], tmp_path / "run"
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / str(STEPS))
    said = []
    assert train_run(configured(place, cut), said.append).step == STEPS
    assert "resuming at step 2" in said
    assert [x for x in said if "mixture" in x] == [x for x in done[1] if "mixture" in x]
    toy.assert_same_arrays(toy.restored(cut, STEPS), toy.restored(whole, STEPS))
    assert toy.rows_of(cut, "train", "validation") == toy.rows_of(whole, "train", "validation")
    for file in ("summary.json", "scores.json"):
        assert (cut / file).read_text() == (whole / file).read_text()
