"""Extractive question answering: loss and spans by hand, and a small model that learns it."""

import collections
import dataclasses
import functools
import json
import re
import string

import jax
import numpy as np
import pytest
import squad_questions
import tiny
from squad_questions import tokenizer

from jaxssl.commands import predict
from jaxssl.core.errors import UserError
from jaxssl.data.examples import ExampleData, row_lengths
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import read_table
from jaxssl.data.tables.table import Table
from jaxssl.models.model import Model
from jaxssl.program.step import make_eval_step
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run
from jaxssl.tasks.answer.task import Answer
from jaxssl.train.evaluation import DataPass, evaluate

TASK = Answer(max_question=8, overlap=8, max_answer_tokens=4, n_best=5)
LENGTH = 32


def table_of(path):
    return read_table(TableFile(path=str(path)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Tables in SQuAD's format: of 2.0 to train and to validate on, and one of 1.1."""
    folder = tmp_path_factory.mktemp("squad")
    tokenizer().save(folder / "tokenizer")
    squad_questions.write(folder / "train.json", 300, seed=0, answerable=0.8)
    squad_questions.write(folder / "dev.json", 45, seed=1, answerable=0.7)
    squad_questions.write(folder / "all.json", 20, seed=2)
    return folder


def configured(folder, out, *overrides):
    recipe = {
        "out": str(out),
        "tokenizer": str(folder / "tokenizer"),
        "model": {
            "name": "bert",
            "vocab_size": -(-tokenizer().vocab_size // 8) * 8,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 2,
            "intermediate_size": 64,
            "max_positions": 32,
            "dropout": 0,
            "attention_dropout": 0,
            "initializer_range": 0.2,
        },
        "task": dataclasses.asdict(TASK),
        "data": {
            "tables": {
                name: {"name": "file", "path": str(folder / f"{file}.json")}
                for name, file in (("train", "train"), ("validation", "dev"))
            },
            "max_length": LENGTH,
            "batch_size": 32,
            "row_lengths": 1,
        },
        "optimizer": {"learning_rate": 0.01},
        "train": {"epochs": 3},
        "evaluation": {"every_epochs": None, "every": 0},
        "logging": {"every": 20, "tensorboard": False, "progress": False},
    }
    path = out.parent / f"{out.name}.json"
    path.write_text(json.dumps(recipe))
    return load_config([path], overrides, FINETUNE)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A small BERT that has learnt it from fresh; what was said."""
    out, said = tmp_path_factory.mktemp("answer") / "run", []
    return out, train_run(configured(files, out), said.append), said


@pytest.fixture(scope="module")
def predicted(run):
    """The trained run's task, its predictions and references of the validation split."""
    kept = {}

    def keep(self, predictions, references):
        kept.update(task=self, predictions=predictions, references=references)
        return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Answer, "scores", keep)
        evaluate_run(run[0], step="last")
    return kept["task"], kept["predictions"], kept["references"]


# --- The whole: a model that learns ---------------------------------------------------------


def test_a_small_model_learns_which_words_answer_and_when_none_do(run):
    _, outcome, said = run
    values = outcome.validation
    assert values["exact"] > 90 and values["f1"] > 90
    assert values["HasAns_exact"] > 90 and values["NoAns_exact"] > 90
    assert any("a question may have no answer" in line for line in said)
    note = next(line for line in said if line.startswith("train: 300 questions in"))
    rows = int(re.search(r"in (\d+) rows", note)[1])
    assert rows > 600 and any(f"data: {rows:,} examples" in line for line in said)


def test_predict_writes_an_answer_for_each_question(run, files, predicted, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "CHUNK_ROWS", 16)
    task, predictions, references = predicted
    want = task.outputs(predictions, references)
    out = tmp_path / "out.jsonl"
    assert predict.predict(run[0], files / "dev.json", out, step="last") == 45
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for got, right in zip(rows, want, strict=True):
        for name in ("id", "answer", "start"):
            assert got[name] == right[name], name
        assert got["score"] == pytest.approx(right["score"], rel=1e-4)


def official_words(text):
    """The words that SQuAD's evaluation compares."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def official_scores(answers, golds):
    """(exact match, F1) of each question, by the formulas of SQuAD 2.0's paper and script."""

    def f1(guess, gold):
        if not guess or not gold:
            return float(guess == gold)
        common = sum((collections.Counter(guess) & collections.Counter(gold)).values())
        return 2 * common / (len(guess) + len(gold))

    for answer, texts in zip(answers, golds):
        pairs = [(official_words(answer), official_words(text)) for text in texts or [""]]
        yield max(a == b for a, b in pairs), max(f1(a, b) for a, b in pairs)


def test_scores_are_the_official_ones_of_what_is_written(run, predicted, files):
    task, predictions, references = predicted
    rows = task.outputs(predictions, references)
    table = table_of(files / "dev.json")
    assert [row["id"] for row in rows] == table.columns["id"]
    golds = [each["text"] for each in table.columns["answers"]]
    each = np.array(list(official_scores([row["answer"] for row in rows], golds)), float)
    values = run[1].validation
    exact, f1 = 100 * each.mean(axis=0)
    assert (values["exact"], values["f1"]) == pytest.approx((exact, f1))
    answerable = np.array([bool(texts) for texts in golds])
    assert values["NoAns_exact"] == pytest.approx(100 * each[~answerable, 0].mean())
    assert values["HasAns_f1"] == pytest.approx(100 * each[answerable, 1].mean())


@pytest.mark.parametrize("threshold", [-2.0, 0.0, 3.0])
def test_scores_of_wrong_answers_too_are_the_official_ones_at_the_threshold(threshold, files):
    table = table_of(files / "dev.json")
    task = dataclasses.replace(TASK, nullable=True, null_threshold=threshold)
    encoded, rng = task.encode(table, tokenizer(), LENGTH, "dev"), np.random.default_rng(0)
    context, labels = (encoded.examples.per_row[name] for name in ("context", "labels"))
    start = rng.integers(context[:, 0], context[:, 1])[:, None]
    right = (labels[:, :1] >= 0) & (rng.random(start.shape) < 0.7)
    scores = 3 * rng.standard_normal(start.shape) + 4 * right
    start = np.where(right, labels[:, :1], start)
    end = start + rng.integers(0, 2, start.shape)  # half of what is right has a word too many
    predictions = {
        "score": scores,
        "start": start,
        "end": np.minimum(end, context[:, 1:] - 1),
        "null": 3 * rng.standard_normal(len(start)),
    }
    values = task.scores(predictions, encoded.references)
    rows = task.outputs(predictions, encoded.references)
    golds = [each["text"] for each in table.columns["answers"]]
    each = np.array(list(official_scores([row["answer"] for row in rows], golds)), float)
    assert 5 < values["exact"] < values["f1"] < 95
    assert (values["exact"], values["f1"]) == pytest.approx(tuple(100 * each.mean(axis=0)))
    ahead = np.array([row["no_answer_score"] for row in rows])
    spans = [next(a["answer"] for a in row["n_best"] if a["answer"]) for row in rows]
    tried = [
        np.mean([b for _, b in official_scores(np.where(ahead > limit, "", spans), golds)])
        for limit in [ahead.min() - 1, *ahead]
    ]
    assert values["best_f1"] == pytest.approx(100 * max(tried)) and values["best_f1"] > values["f1"]


def test_everything_that_is_written_stands_in_the_context(predicted, files):
    task, predictions, references = predicted
    contexts = table_of(files / "dev.json").columns["context"]
    for row, context in zip(task.outputs(predictions, references), contexts, strict=True):
        assert json.loads(json.dumps(row)) == row
        assert sum(each["probability"] for each in row["n_best"]) == pytest.approx(1, abs=1e-4)
        assert len(row["n_best"]) == TASK.n_best + 1
        for each in [row, *row["n_best"]]:
            if each["answer"]:
                assert context.startswith(each["answer"], each["start"])
            else:
                assert each["start"] is None


def test_scores_do_not_depend_on_the_number_of_devices(run, files):
    found = open_run(run[0], "last")
    task = found.config.objective
    encoded = task.encode(table_of(files / "dev.json"), found.tokenizer, LENGTH, "dev")
    edges = row_lengths(encoded.examples.lengths, 1)
    data = ExampleData(encoded.examples, edges[:, None], encoded.references)
    assert data.num_rows % 16, "the last batch is to have padding"
    step = jax.jit(make_eval_step(found.model, task, found.vocabulary, seed=0))
    params = jax.tree.map(np.asarray, found.params)
    values = []
    for mesh in (tiny.mesh(1), tiny.mesh(4, 2)):
        with jax.set_mesh(mesh):
            placed = tiny.shard_params(found.model, params, mesh)
            rows = DataPass(data=data, mesh=mesh, batch_size=16)
            values.append(evaluate(step, task, placed, rows).values)
    assert values[0].keys() == values[1].keys()
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert values[0]["exact"] == pytest.approx(run[1].validation["exact"])


def test_under_a_limit_only_whole_questions_count_and_that_is_said(run):
    values = evaluate_run(run[0], step="last", batches=2)
    assert values["total"] + values["questions_left_out"] <= 45
    assert values["total"] > 0 and values["questions_left_out"] > 0
    assert values["exact"] > 80


# --- On the device, by hand -----------------------------------------------------------------


COUNT = 14


@functools.cache
def computed(family, path):
    """A random model on the first rows of a table and two rows of padding: (task, model,
    parameters, hidden states, batch, the head's logits, the whole split)."""
    task = dataclasses.replace(TASK, nullable=True)
    config = getattr(tiny, family)(vocab_size=-(-tokenizer().vocab_size // 8) * 8)
    model = Model(config, task.heads)
    encoded = task.encode(table_of(path), tokenizer(), LENGTH, "dev")
    batch = encoded.examples.rows(np.array([*range(COUNT), -1, -1]), LENGTH, 0)
    params = tiny.random_params(model, scale=0.5)
    hidden = jax.jit(model.encode)(params, batch)
    logits = jax.jit(model.head, static_argnums=1)(params, "answer", hidden)
    return task, model, params, hidden, batch, np.asarray(logits, np.float64), encoded


def log_softmax(x):
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_loss_is_over_the_context_and_the_position_of_no_answer(family, files):
    task, model, params, hidden, batch, logits, _ = computed(family, files / "dev.json")
    sums = jax.jit(task.sums, static_argnums=0)(model, params, {"hidden": hidden}, batch)
    want, right = 0.0, 0
    for row in range(COUNT):
        length = int(batch["segment_ids"][row].sum())
        null = 0 if family == "bert" else length - 1  # the last token has seen the whole row
        first, end = batch["context"][row]
        allowed = [null, *range(first, end)] if null == 0 else [*range(first, end), null]
        ends = [null if label < 0 else label for label in batch["labels"][row]]
        for side, label in enumerate(ends):
            want -= log_softmax(logits[row, allowed, side])[allowed.index(label)] / 2
        chosen = [allowed[int(np.argmax(logits[row, allowed, side]))] for side in (0, 1)]
        right += chosen == ends
    assert float(sums.losses["answer"]) == pytest.approx(want, rel=1e-5)
    assert float(task.weights(batch)["answer"]) == COUNT
    hits, count = map(float, sums.metrics["accuracy/answer"])
    assert (hits, count) == (right, COUNT)


def test_rows_of_padding_shorter_than_the_first_row_add_nothing(files):
    """They have the first row's labels, which may be past their end."""
    task, model, params, hidden, _, _, encoded = computed("bert", files / "dev.json")
    lengths = encoded.examples.lengths
    at, length = int(np.argmin(lengths)), int(lengths.min())
    moved = dict(encoded.examples.per_row)
    moved["labels"] = moved["labels"].copy()
    moved["labels"][0] = lengths[0] - 2
    assert lengths[0] > length + 2
    examples = dataclasses.replace(encoded.examples, per_row=moved)
    sums = jax.jit(task.sums, static_argnums=0)
    losses = [
        float(sums(model, params, {"hidden": hidden[: len(rows), :length]}, batch).losses["answer"])
        for rows in ([at], [at, -1])
        for batch in [examples.rows(np.array(rows), length, 0)]
    ]
    assert np.isfinite(losses).all() and losses[1] == pytest.approx(losses[0], rel=1e-6)


def has_most_context(token, window, windows):
    """Whether a token has most context in this window, as BERT's script tells it."""
    value = lambda w: 100 * min(token - w[0], w[1] - 1 - token) + (w[1] - w[0])
    holding = [w for w in windows if w[0] <= token < w[1]]
    return max(holding, key=lambda w: (value(w), -w[0])) == window


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_predictions_are_those_of_a_walk_over_all_spans_of_all_windows(family, files):
    task, model, params, hidden, batch, logits, encoded = computed(family, files / "dev.json")
    chosen = range(COUNT)
    references = encoded.references[:COUNT]
    complete = [w.question for w in references if w.begin == 0 and w.count > 2]
    of_them = [i for i in chosen if references[i].question in complete]
    of_them = [i for i in of_them if references[i].question is not references[-1].question]
    predictions = jax.jit(task.predict, static_argnums=0)(model, params, {"hidden": hidden}, batch)
    predictions = {name: np.asarray(x) for name, x in predictions.items()}
    rows = task.outputs(
        {n: x[of_them] for n, x in predictions.items()}, [references[i] for i in of_them]
    )
    assert len(rows) > 1
    for row in rows:
        mine = [i for i in of_them if references[i].question.id == row["id"]]
        bounds = {i: batch["context"][i] - references[i].first + references[i].begin for i in mine}
        windows = [tuple(map(int, bounds[i])) for i in mine]
        spans, nulls = {}, []
        for i, window in zip(mine, windows):
            shift = references[i].begin - references[i].first
            null = 0 if family == "bert" else int(batch["segment_ids"][i].sum()) - 1
            nulls.append(logits[i, null].sum())
            for a in range(*window):
                for b in range(a, min(window[1], a + task.max_answer_tokens)):
                    if has_most_context(a, window, windows):
                        begin, end = references[i].spans[a, 0], references[i].spans[b, 1]
                        text = references[i].question.context[begin:end]
                        score = logits[i, a - shift, 0] + logits[i, b - shift, 1]
                        spans[text] = max(score, spans.get(text, -np.inf))
        want = sorted(spans, key=lambda text: -spans[text])[: task.n_best]
        got = [each for each in row["n_best"] if each["answer"]]
        assert [each["answer"] for each in got] == want
        np.testing.assert_allclose([e["score"] for e in got], [spans[t] for t in want], rtol=1e-5)
        assert row["no_answer_score"] == pytest.approx(min(nulls) - spans[want[0]], abs=1e-4)


# --- On the host ----------------------------------------------------------------------------


def test_whether_questions_may_have_no_answer_is_found_out(files):
    assert TASK.learn_labels(table_of(files / "train.json")).nullable is True
    learnt = TASK.learn_labels(table_of(files / "all.json"))
    assert learnt.nullable is False and "every question has an answer" in learnt.about
    given = dataclasses.replace(TASK, nullable=True)
    assert given.learn_labels(table_of(files / "all.json")).nullable is True
    with pytest.raises(UserError, match="(?s)a threshold for no answer.*null_threshold"):
        dataclasses.replace(TASK, null_threshold=1.0).learn_labels(table_of(files / "all.json"))
    table = table_of(files / "train.json")
    empty = table.select(i for i, a in enumerate(table.columns["answers"]) if not a["text"])
    with pytest.raises(UserError, match="nothing to learn"):
        TASK.learn_labels(empty)


def test_of_questions_that_all_have_answers_the_scores_are_those_of_squad_1(files):
    task = TASK.learn_labels(table_of(files / "all.json"))
    encoded = task.encode(table_of(files / "all.json"), tokenizer(), LENGTH, "dev")
    labels = encoded.examples.per_row["labels"]
    there = labels[:, :1] >= 0
    right = {"score": np.where(there, 1.0, -np.inf), "start": labels[:, :1], "end": labels[:, 1:]}
    right["null"] = np.full(len(labels), 5.0)
    assert task.scores(right, encoded.references) == {"exact_match": 100.0, "f1": 100.0}
    rows = task.outputs(right, encoded.references)
    golds = [each["text"] for each in table_of(files / "all.json").columns["answers"]]
    assert [[row["answer"]] for row in rows] == golds
    assert all("no_answer_score" not in row for row in rows)


def test_the_majority_baseline_looks_at_no_question(files):
    train, dev = (
        TASK.learn_labels(table_of(files / "train.json")).encode(
            table_of(files / name), tokenizer(), LENGTH, name
        )
        for name in ("train.json", "dev.json")
    )
    task = dataclasses.replace(TASK, nullable=True, null_threshold=2.5)
    values = task.scores(task.majority_baseline(train.references, dev.references), dev.references)
    assert (
        values["exact"]
        == values["f1"]
        == pytest.approx(100 * values["NoAns_total"] / values["total"])
    )
    every = TASK.learn_labels(table_of(files / "all.json"))
    encoded = every.encode(table_of(files / "all.json"), tokenizer(), LENGTH, "all")
    rows = every.outputs(
        every.majority_baseline(train.references, encoded.references), encoded.references
    )
    contexts = table_of(files / "all.json").columns["context"]
    for row, context in zip(rows, contexts):
        assert row["start"] == 0 and context.startswith(row["answer"])
        assert 1 <= len(row["answer"].split()) <= 2
    one_word = TASK.majority_baseline(
        [w._replace(gold=(4, 9) if w.gold else None) for w in train.references],
        encoded.references,
    )
    rows = every.outputs(one_word, encoded.references)
    assert all(tokenizer().encode_batch([row["answer"]])[0].size == 6 for row in rows)


def test_without_labels_rows_are_the_same_but_for_them(files):
    task = dataclasses.replace(TASK, nullable=False)
    table = table_of(files / "all.json")
    known = task.encode(table, tokenizer(), LENGTH, "all")
    bare = Table({n: v for n, v in table.columns.items() if n != "answers"}, table.places)
    unknown = task.encode(bare, tokenizer(), LENGTH, "all", labelled=False)
    assert np.array_equal(known.examples.tokens, unknown.examples.tokens)
    assert set(known.examples.per_row) - set(unknown.examples.per_row) == {"labels"}
    assert all(window.question.answers is None for window in unknown.references)
    guesses = task.majority_baseline(known.references, unknown.references)
    assert [row["id"] for row in task.outputs(guesses, unknown.references)] == table.columns["id"]


def test_what_cannot_be_learnt_or_said_is_counted():
    context = "every bird sees a fish near an old river and paints one stone under it. " * 3
    golds = {
        "in no window": " ".join(context.split()[:28]),
        "longer than an answer": "bird sees a fish near an",
        "in a token": "iver",
        "plain": "fish",
        "none": None,
    }
    columns = {
        "id": list(golds),
        "question": ["what?"] * 4 + ["what colour is the cat and where does it live?"],
        "context": [context] * 5,
        "answers": [
            {"text": [g] if g else [], "answer_start": [context.index(g)] if g else []}
            for g in golds.values()
        ],
    }
    task = dataclasses.replace(TASK, nullable=True, max_question=7)
    table = Table(columns, [f"here:{i}" for i in range(5)])
    notes = task.encode(table, tokenizer(), 30, "train").notes
    rows = len(task.encode(table, tokenizer(), 30, "train").references)
    assert notes[0] == f"train: 5 questions in {rows} rows, {rows / 5:.2f} windows a question"
    for note in (
        "train: 1 of 5 questions have no answer",
        "train: 1 of 5 questions lose what is past task.max_question=7 tokens",
        "train: 1 of 4 answers are whole in no window, task.overlap=8: trained as if there were",
        "train: 2 of 4 answers are longer than task.max_answer_tokens=4: they cannot be",
        "train: 1 of 4 answers begin or end inside a token: they cannot be matched exactly",
    ):
        assert any(line.startswith(note) for line in notes), (note, notes)
    assert len(notes) == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.max_length=18"], "(?s)too little room for a context.*data.max_length.*at least 20"),
        (["task.question=questions"], "(?s)no such column.*task.question.*did you mean 'question'"),
        (["task.label=answer"], "(?s)no such column.*task.label.*did you mean 'answers'"),
        (["task.nullable=false"], r"(?s)a question without an answer.*train.json: data\[0\]"),
        (["task.n_best=0"], "n_best"),
        (["task.dropout=1"], "dropout"),
        (["task.null_threshold=.inf"], "not finite"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(files, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        build(configured(files, tmp_path / "run", *overrides))
    assert not (tmp_path / "run").exists()


def test_an_answer_elsewhere_is_told_with_its_place_before_training(files, tmp_path):
    content = json.loads((files / "train.json").read_text())
    asked = content["data"][0]["paragraphs"]
    number = next(i for i, p in enumerate(asked) if p["qas"][0]["answers"])
    asked[number]["qas"][0]["answers"][0]["answer_start"] += 1
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=rf"(?s)not in its context.*paragraphs\[{number}\].qas\[0\]"
    ):
        build(
            configured(files, tmp_path / "run", f"data.tables.train.path={tmp_path / 'bad.json'}")
        )
