"""Relation extraction: its rows, losses and scores, and a tiny model that learns a direction."""

import json
from collections import Counter

import jax
import numpy as np
import pytest
import tiny
from relations import RELATIONS, sightings, table, tokenizer
from scipy.special import log_softmax, softmax

from jaxssl.core.errors import UserError
from jaxssl.data.tables.read import read_splits
from jaxssl.models.model import Model
from jaxssl.ops.pooling import states_at
from jaxssl.parallel.mesh import replicated
from jaxssl.program.step import make_eval_step
from jaxssl.run.feeds import read_split
from jaxssl.run.open import open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run
from jaxssl.tasks.relate.entities import WordEntities
from jaxssl.tasks.relate.task import Reference, Relate
from jaxssl.train.evaluation import DataPass, evaluate, in_order

WORDS = tokenizer("wordpiece")


def learnt(**options):
    return Relate(labels=RELATIONS, negative="Other", **options)


def encode(task, columns, max_length=64, **options):
    return task.encode(table(columns), WORDS, max_length, "train", **options)


def row(encoded, i):
    tokens, starts = encoded.examples.tokens, encoded.examples.starts
    return [WORDS.token(int(id_)) for id_ in tokens[starts[i] : starts[i + 1]]]


# --- Rows -------------------------------------------------------------------------------------


def test_rows_are_marked_texts_with_the_tokens_of_their_markers():
    columns = sightings(20)
    encoded = encode(learnt(), columns)
    starts = encoded.examples.per_row["entity_starts"]
    for i, text in enumerate(columns["text"]):
        tokens = row(encoded, i)
        assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]"
        assert [tokens[n] for n in starts[i]] == ["@", "#"]
        assert (starts[i][0] < starts[i][1]) == (text.index("<e1>") < text.index("<e2>"))
    want = [RELATIONS.index(name) for name in columns["relation"]]
    assert encoded.examples.per_row["labels"].tolist() == want
    assert [reference.label for reference in encoded.references] == want
    assert encoded.notes == ()


def test_typed_markers_hold_the_types_of_each_row():
    columns = {
        "token": [["my", "sister", "sees", "it"], ["it", "sees", "my", "sister"]],
        "subj_start": [0, 2],
        "subj_end": [1, 3],
        "obj_start": [3, 0],
        "obj_end": [3, 0],
        "a": ["PERSON", "PERSON"],
        "b": ["ORGANIZATION", "PERSON"],
        "relation": ["x", "y"],
    }
    task = Relate(
        labels=("x", "y"),
        entities=WordEntities(words="token"),
        markers="typed",
        subj_type="a",
        obj_type="b",
    )
    encoded = encode(task, columns)
    want = "[CLS]@*person*mysister@sees#^organization^it#[SEP]"
    assert "".join(row(encoded, 0)).replace("##", "") == want
    want = "[CLS]#^person^it#sees@*person*mysister@[SEP]"
    assert "".join(row(encoded, 1)).replace("##", "") == want
    starts = encoded.examples.per_row["entity_starts"]
    assert [[row(encoded, i)[n] for n in starts[i]] for i in range(2)] == [["@", "#"]] * 2


def test_without_labels_rows_are_the_same():
    columns = sightings(3)
    with_labels, without = encode(learnt(), columns), None
    without = encode(learnt(), {"text": columns["text"]}, labelled=False)
    assert without.examples.tokens.tolist() == with_labels.examples.tokens.tolist()
    assert "labels" not in without.examples.per_row
    assert [reference.label for reference in without.references] == [None] * 3


def test_long_rows_keep_both_entities_and_that_is_said():
    columns = sightings(4)
    columns["text"] = [f"in the garden near a river {text} at home." for text in columns["text"]]
    whole = encode(learnt(), columns)
    length = int(whole.examples.lengths.max()) - 6
    cut = encode(learnt(), columns, length)
    for i in range(4):
        kept, tokens = row(cut, i)[1:-1], row(whole, i)[1:-1]
        assert len(kept) <= length - 2
        inside = [n for n, token in enumerate(tokens) if token in "@#"]
        assert Counter(kept)["@"] == Counter(kept)["#"] == 2
        assert " ".join(tokens[inside[0] : inside[-1] + 1]) in " ".join(kept)
        assert " ".join(kept) in " ".join(tokens)
        assert [row(cut, i)[n] for n in cut.examples.per_row["entity_starts"][i]] == ["@", "#"]
    (note,) = cut.warnings(length, "train")
    lost = int((whole.examples.lengths - cut.examples.lengths).sum())
    assert f"data.max_length={length}" in note and f"lose {lost} tokens away from" in note
    assert note.startswith("WARNING: most of this data is cut off!")


def far(count=6):
    """Every third row has its entities far apart."""
    columns = sightings(count)
    for i in range(0, count, 3):
        columns["text"][i] = columns["text"][i].replace(" sees ", " sees it " + "it " * 40)
        columns["text"][i] = columns["text"][i].replace(" follows ", " it " + "it " * 40)
    return columns


def test_rows_whose_entities_do_not_fit_are_an_error():
    with pytest.raises(UserError, match="entity markers cut off by truncation") as error:
        encode(learnt(), far(), 32)
    assert error.value.where == "x.csv:2" and "2 of 6 rows" in error.value.got


def test_a_part_of_a_file_to_predict_may_have_no_row_that_fits():
    columns, task = far(1), learnt(too_far="leave_out")
    encoded = encode(task, columns, 32, labelled=False)
    assert encoded.examples.num_rows == 0 and "1 of 1 rows" in encoded.notes[0]
    assert task.outputs({}, encoded.references) == [{"label": None, "probabilities": None}]
    with pytest.raises(UserError, match="no row is left"):
        encode(task, columns, 32)


def test_rows_left_out_are_counted_everywhere():
    columns, task = far(), learnt(too_far="leave_out")
    encoded = encode(task, columns, 32)
    assert encoded.examples.num_rows == 4
    assert [reference.row for reference in encoded.references] == [1, 2, 4, 5]
    kept = [RELATIONS.index(columns["relation"][i]) for i in (1, 2, 4, 5)]
    assert encoded.examples.per_row["labels"].tolist() == kept
    assert [reference.label for reference in encoded.references] == kept
    assert any("train: 2 of 6 rows (33.3%) are left out" in note for note in encoded.notes)
    logits = 5 * np.eye(3)[[reference.label for reference in encoded.references]]
    assert task.scores({"logits": logits}, encoded.references)["left_out"] == 2
    outputs = task.outputs({"logits": logits}, encoded.references)
    want = [name if i % 3 else None for i, name in enumerate(columns["relation"])]
    assert [output["label"] for output in outputs] == want
    all_there = encode(task, sightings(3))
    scores = task.scores({"logits": np.eye(3)}, all_there.references)
    assert "left_out" not in scores


# --- Labels and mistakes ----------------------------------------------------------------------


def test_relations_are_learnt_with_their_weights():
    task = Relate(negative="Other", class_weights="balanced")
    got = task.learn_labels(table({"relation": ["Other"] * 2 + ["A(e1,e2)", "B"]}))
    assert got.labels == ("A(e1,e2)", "B", "Other")
    assert got.weights_by_label == pytest.approx((4 / 3, 4 / 3, 2 / 3))
    assert "3 relations" in got.about and "Other is no relation" in got.about
    assert got.heads[0].size == 3 and got.heads[0].num_inputs == 2


@pytest.mark.parametrize(
    ("task", "relations", "match", "where"),
    [
        (Relate(), ["A", "A"], "nothing to tell apart", "task.label=relation"),
        (Relate(negative="other"), ["A", "Other"], "no relation is not among", "task.negative"),
        (Relate(label="rel"), ["A", "B"], "no such column", "task.label, in x.csv"),
        (Relate(), ["A", None], "no label", "x.csv:3, column relation"),
        (Relate(), ["A", ["A", "B"]], "several labels", "x.csv:3, column relation"),
        (Relate(labels=("A", "C")), ["A", "B"], "not those of the training", "task.labels"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(task, relations, match, where):
    with pytest.raises(UserError, match=match) as error:
        task.learn_labels(table({"relation": relations}))
    assert error.value.where == where


def test_data_that_cannot_be_used_are_refused_with_their_place():
    columns = sightings(2)
    with pytest.raises(UserError, match="training split does not have") as error:
        encode(learnt(), {**columns, "relation": ["Other", "Seeing(e1, e2)"]})
    assert error.value.where == "x.csv:3, column relation"
    assert "did you mean 'Seeing(e1,e2)'" in error.value.fix
    with pytest.raises(UserError, match="mark is missing") as error:
        encode(learnt(), {**columns, "text": [columns["text"][0], "<e1>a dog</e1> sees it"]})
    assert error.value.where == "x.csv:3, column text"
    typed = learnt(markers="typed", subj_type="a", obj_type="b")
    with pytest.raises(UserError, match="an entity has no type") as error:
        encode(typed, {**columns, "a": ["person", "person"], "b": ["person", ""]})
    assert error.value.where == "x.csv:3, column b"
    with pytest.raises(UserError, match="no such column") as error:
        encode(typed, {**columns, "a": ["person", "person"]})
    assert "task.obj_type" in error.value.where
    with pytest.raises(UserError, match="does not know an entity marker"):
        encode(typed, {**columns, "a": ["person", "person"], "b": ["person", "人"]})


@pytest.mark.parametrize(
    "options",
    [
        {"markers": "typed"},
        {"markers": "typed", "subj_type": "a"},
        {"subj_type": "a", "obj_type": "b"},
        {"dropout": 1.0},
        {"r_drop": -1.0},
    ],
)
def test_options_that_do_not_fit_are_refused(options):
    with pytest.raises(UserError):
        Relate(**options)


def test_causal_models_are_refused_and_poolers_left_out():
    with pytest.raises(UserError, match="has seen nothing of an entity"):
        Relate().check(tiny.gpt2(), tiny.WORDS)
    Relate().check(tiny.bert(), tiny.WORDS)
    assert not Relate().keeps_pooler(tiny.bert())


# --- On the device ----------------------------------------------------------------------------


def parts(task):
    """A model and a batch of three rows and one of padding, whose markers are beyond its length."""
    model = Model(tiny.bert(pooler=False), task.heads)
    batch = tiny.rows([[d] for d in tiny.random_documents([7, 5, 8, 1])])
    batch |= {
        "entity_starts": np.array([[1, 4], [3, 0], [6, 2], [9, 40]], np.int32),
        "labels": np.array([2, 0, 1, 0], np.int32),
        "example_weights": np.array([1, 1, 1, 0], np.float32),
    }
    hidden = np.random.default_rng(0).standard_normal((4, 8, 16)).astype(np.float32)
    return model, tiny.random_params(model, scale=0.4), hidden, batch


def logits_of(params, hidden, starts):
    """By numpy: both states side by side, a dense layer with tanh, the output."""
    head = params["relate"]
    both = np.stack([np.concatenate([h[a], h[b]]) for h, (a, b) in zip(hidden, starts)])
    inner = np.tanh(both @ head["transform"]["kernel"] + head["transform"]["bias"])
    return (inner @ head["output"]["kernel"] + head["output"]["bias"]).astype(np.float64)


def test_the_loss_is_that_of_the_states_at_both_markers():
    task = learnt(weights_by_label=(0.5, 1.0, 3.0))
    model, params, hidden, batch = parts(task)
    assert params["relate"]["transform"]["kernel"].shape == (32, 16)
    logits = logits_of(params, hidden[:3], batch["entity_starts"][:3])
    got = task.predict(model, params, {"hidden": hidden}, batch)["logits"]
    np.testing.assert_allclose(got[:3], logits, rtol=1e-4, atol=1e-5)
    nll = -log_softmax(logits, axis=-1)[np.arange(3), batch["labels"][:3]]
    weights = np.array([3.0, 0.5, 1.0])
    sums = task.sums(model, params, {"hidden": hidden}, batch)
    assert sums.losses["relate"] == pytest.approx((weights * nll).sum(), rel=1e-5)
    assert task.weights(batch)["relate"] == weights.sum()
    assert sums.metrics["nll/relate"] == pytest.approx((nll.sum(), 3), rel=1e-5)


def test_r_drop_sends_rows_through_the_head_twice():
    task = learnt(r_drop=1.5, dropout=0.3)
    model, params, hidden, batch = parts(task)
    twice = {name: np.repeat(values, 2, axis=0) for name, values in batch.items()}
    key, hidden = jax.random.key(0), np.repeat(hidden, 2, axis=0)
    loss = task.sums(model, params, {"hidden": hidden}, batch, key).losses["relate"]
    features = states_at(hidden, twice["entity_starts"])
    logits = np.asarray(model.head(params, "relate", features, key), np.float64)[:6]
    labels = batch["labels"][:3]
    log_p, log_q = log_softmax(logits[0::2], axis=-1), log_softmax(logits[1::2], axis=-1)
    nll = -(log_p + log_q)[np.arange(3), labels] / 2
    divergence = ((np.exp(log_p) - np.exp(log_q)) * (log_p - log_q)).sum(-1)
    assert loss == pytest.approx((nll + 1.5 * divergence / 4).sum(), rel=1e-5)


# --- Scores -----------------------------------------------------------------------------------


def references(labels):
    return [Reference(i, 0, label) for i, label in enumerate(labels)]


def counted(predicted, gold, negative):
    """(precision, recall, F1) without the negative class, by counting."""
    right = sum(p == g != negative for p, g in zip(predicted, gold))
    precision = right / max(1, sum(p != negative for p in predicted))
    recall = right / max(1, sum(g != negative for g in gold))
    return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


def test_scores_leave_the_negative_class_out():
    gold, guessed = [0, 0, 1, 2, 2, 1, 0, 2], [0, 1, 1, 2, 1, 0, 0, 2]
    scores = learnt().scores({"logits": np.eye(3)[guessed]}, references(gold))
    names = [[RELATIONS[i] for i in side] for side in (guessed, gold)]
    want = counted(*names, "Other")
    assert [scores[k] for k in ("precision", "recall", "f1")] == pytest.approx(want)
    assert scores["accuracy"] == 5 / 8 and learnt().metric == "f1"
    # One relation, three of five right and in its direction, six predictions of it in all.
    assert scores["semeval_f1"] == pytest.approx(2 * 3 / (5 + 5))
    assert scores["f1/Seeing(e1,e2)"] == pytest.approx(2 * 1 / (3 + 2))
    assert scores["f1/Seeing(e2,e1)"] == pytest.approx(2 * 2 / (2 + 3))
    assert "f1/Other" not in scores


def test_without_a_negative_class_every_label_counts():
    task = Relate(labels=("born_in", "works_for"))
    scores = task.scores({"logits": np.eye(2)[[0, 1, 1]]}, references([0, 0, 1]))
    assert scores["f1"] == scores["precision"] == scores["recall"] == scores["accuracy"] == 2 / 3
    assert "semeval_f1" not in scores
    assert {"f1/born_in", "f1/works_for"} <= scores.keys()


def test_outputs_are_labels_with_probabilities():
    logits = np.random.default_rng(0).standard_normal((3, 3))
    outputs = learnt().outputs({"logits": logits}, references([None] * 3))
    for output, want in zip(outputs, softmax(logits, axis=-1)):
        assert output["label"] == RELATIONS[want.argmax()]
        assert output["probabilities"] == pytest.approx(dict(zip(RELATIONS, want)), abs=1e-6)


def test_the_majority_baseline_is_the_most_frequent_relation_of_training():
    logits = learnt().majority_baseline(references([2, 1, 2]), references([0] * 4))["logits"]
    assert logits.argmax(-1).tolist() == [2] * 4


# --- From end to end --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A fresh two-layer BERT, trained on sightings; what came out."""
    root = tmp_path_factory.mktemp("relate")
    WORDS.save(root / "tokenizer")
    columns = sightings(360)
    # A few labels are wrong, so that not every score is 1.
    wrong = np.random.default_rng(0).choice(360, 14, replace=False)
    for i in wrong:
        columns["relation"][i] = RELATIONS[RELATIONS.index(columns["relation"][i]) - 1]
    rows = [json.dumps(dict(zip(columns, values))) for values in zip(*columns.values())]
    (root / "sightings.jsonl").write_text("\n".join(rows) + "\n")
    model = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64}
    size = -(-WORDS.vocab_size // 8) * 8
    tables = {"train": {"name": "file", "path": str(root / "sightings.jsonl")}}
    recipe = {
        "out": str(root / "run"),
        "model": {"name": "bert", "vocab_size": size, "max_positions": 40, "dropout": 0.0, **model},
        "tokenizer": str(root / "tokenizer"),
        "task": {"name": "relate", "negative": "Other"},
        "data": {
            "tables": {**tables, "validation_fraction": 0.2},
            "max_length": 40,
            "batch_size": 16,
            "row_lengths": 1,
        },
        "optimizer": {"learning_rate": 3e-3, "schedule": {"name": "linear", "warmup": 0.1}},
        "train": {"epochs": 6},
        "evaluation": {"every_epochs": 3},
        "checkpoint": {"every": 1000},
        "logging": {"every": 50, "tensorboard": False, "progress": False},
    }
    (root / "recipe.json").write_text(json.dumps(recipe))
    config = load_config([root / "recipe.json"], (), FINETUNE)
    return config, train_run(config, lambda text: None)


def test_a_tiny_model_learns_who_sees_whom(run_dir):
    _, outcome = run_dir
    assert 0.9 < outcome.validation["f1"] < 1
    assert outcome.validation["semeval_f1"] > 0.9
    assert outcome.validation["loss"] == pytest.approx(outcome.validation["loss/relate"], rel=1e-5)


@pytest.fixture(scope="module")
def opened(run_dir):
    """The run as it was saved, and its validation data."""
    config, _ = run_dir
    found = open_run(config.out, "last")
    stream = found.config.labelled
    return found, read_split(stream, found.tokenizer, "validation")


@pytest.mark.parametrize("devices", [1, 8])
def test_scores_are_the_same_on_one_device_and_on_eight(run_dir, opened, devices):
    """Of 72 rows in batches of 16, the last one is half padding."""
    found, data = opened
    task, mesh = found.config.objective, tiny.mesh(data=devices)
    step = jax.jit(make_eval_step(found.model, task, found.vocabulary, seed=0))
    with jax.set_mesh(mesh):
        params = jax.device_put(jax.device_get(found.params), replicated(mesh))
        rows = DataPass(data=data, mesh=mesh, batch_size=16)
        values = evaluate(step, task, params, rows).values
    for name, value in run_dir[1].validation.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name


def test_scores_follow_from_what_is_put_out(run_dir, opened):
    """Read from the outputs of a split by counting, without our scorers."""
    config, outcome = run_dir
    found, data = opened
    task, model = found.config.objective, found.model
    tables = read_splits(config.data.tables, "relation", lambda text: None)

    @jax.jit
    def predict(params, batch):
        return task.predict(model, params, {"hidden": model.encode(params, batch)}, batch)

    rows = []
    for batch in data.eval_batches(8, np.arange(8)):
        kept = {name: batch[name] for name in ("example_id", "example_weights")}
        rows.append({**jax.device_get(predict(found.params, batch)), **kept})
    chosen, predictions = in_order(rows)
    outputs = task.outputs(predictions, data.references(chosen))
    labels, gold = [output["label"] for output in outputs], tables["validation"].columns["relation"]
    assert len(labels) == len(gold) == 72
    got = [outcome.validation[name] for name in ("precision", "recall", "f1")]
    assert got == pytest.approx(counted(labels, gold, "Other"))
    hits = [label == wanted for label, wanted in zip(labels, gold)]
    assert outcome.validation["accuracy"] == pytest.approx(np.mean(hits))
    for output in outputs:
        assert output["label"] == max(output["probabilities"], key=output["probabilities"].get)
