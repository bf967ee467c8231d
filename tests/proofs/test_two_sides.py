"""Rows of two sides through a whole run: two texts, each padded to lengths of its own."""

import json
import shutil

import numpy as np
import plugged
import pytest
import toy
from proofs.two_sides import Alike, vector

from jaxssl.commands.predict import open_predictor, predict
from jaxssl.core.registry import register
from jaxssl.objectives.base import Objective
from jaxssl.run.build import build
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def registered():
    with plugged.unplugged():
        register(Objective, Alike)
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Pairs of a short and a longer text; 1 where they begin with the same word."""
    short = [" ".join(document[0].split()[:2]) for document in toy.documents(40, seed=1)]
    long = ["".join(document).strip() for document in toy.documents(40, seed=2)]
    rows = [
        {"one": a, "two": b, "alike": float(a.split()[0] == b.split()[0])}
        for a, b in zip(short, long)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(words, table, out):
    plain = toy.recipe(words, out, "masked")
    tables = {"train": {"name": "file", "path": str(table)}, "validation_fraction": 0.25}
    return {
        **plain,
        "objective": {"name": "alike_proof", "text": "one", "pair": "two", "label": "alike"},
        "data": {"tables": tables, "max_length": 16, "batch_size": 8},
        "tokenizer": str(words / "tokenizer"),
        "train": {"steps": STEPS},
        "evaluation": {"every": 4},
        "checkpoint": {"every": 4, "keep_last": 9},
    }


def configured(*given, overrides=()):
    return load_config([recipe(*given)], overrides, FINETUNE)


@pytest.fixture(scope="module")
def done(words, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("alike") / "run"
    assert train_run(configured(words, table, out), lambda text: None).step == STEPS
    return out


def test_each_side_is_padded_to_its_own_longest_row(words, table, tmp_path):
    feed = build(configured(words, table, tmp_path / "run")).work.feeds.streams[""]
    batch = next(feed.loader(slice(0, 8), 0))
    assert batch["tokens"].shape == (8, 8) and batch["targets"].shape == (8, 16)
    assert batch["targets_segment_ids"].sum() > batch["segment_ids"].sum()


def test_predictions_are_those_of_each_text_alone(done, table, tmp_path):
    opened = open_predictor(done)
    model, params = opened.trained.model, opened.trained.params
    tokenizer = opened.trained.tokenizer
    rows = [json.loads(line) for line in table.read_text().splitlines()][:4]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (before, _, after) = tokenizer.frame(False)

    def alone(text):
        room = 16 - len(before) - len(after)
        ids = [*before, *tokenizer.encode_batch([text])[0][:room], *after]
        batch = {"tokens": np.array([ids]), "segment_ids": np.ones((1, len(ids)), int)}
        batch["positions"] = np.arange(len(ids))[None]
        return vector(model, params, batch)[0]

    want = [float(np.dot(alone(row["one"]), alone(row["two"]))) for row in rows]
    assert predict(done, few, tmp_path / "predicted.jsonl") == len(rows)
    made = [json.loads(line) for line in (tmp_path / "predicted.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([each["value"] for each in made], want, atol=2e-6)


def test_rows_of_two_sides_are_encoded_in_each_epoch(words, table, tmp_path):
    """Under a frozen body, too, where rows of one side are encoded once."""
    overrides = ("freezing.preset=head", "train.steps=2", "evaluation.every=2")
    overrides += ("optimizer.schedule.warmup=1",)
    said = []
    config = configured(words, table, tmp_path / "run", overrides=overrides)
    assert train_run(config, said.append).step == 2
    assert not any("encoded once" in line for line in said)


def test_a_resumed_run_ends_with_the_same_bits(done, words, table, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(done, again)
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    train_run(configured(words, table, again), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, STEPS), toy.restored(done, STEPS))


@pytest.mark.slow
def test_on_another_mesh_the_run_goes_the_same_way(done, words, table, tmp_path):
    other = configured(words, table, tmp_path / "other", overrides=["mesh.tensor=2"])
    train_run(other, lambda text: None)
    runs = (done, tmp_path / "other")
    losses = [[row["loss"] for row in toy.rows_of(run, "validation")] for run in runs]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-4)
