"""Runs of one stack of an encoder-decoder that was pretrained as a whole."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import toy
import tuned

from jaxssl import Sampling, generate_texts
from jaxssl.commands.predict import predict
from jaxssl.core.errors import UserError
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.train import train_run

QUIET = lambda text: None  # noqa: E731
SIX = ("train.steps=6", "evaluation.every=3", "checkpoint.every=3", "logging.every=1")


@pytest.fixture(scope="module")
def base(words, tmp_path_factory):
    """A BART that has learnt for six steps how texts go on."""
    out = tmp_path_factory.mktemp("parts") / "base"
    recipe = toy.recipe(words, out, "masked")
    recipe["model"] |= {"name": "bart", "decoder_layers": 1, "decoder_start_token_id": 2}
    recipe["objective"] = {"name": "continuation"}
    train_run(load_config([recipe], SIX), QUIET)
    return out


def classifier(base, table, out, *overrides):
    recipe = tuned.recipe(base, table, out)
    recipe["task"]["pooling"] = "auto"
    recipe["checkpoint"]["every"] = 5
    return load_config([recipe], ("train.epochs=2", *overrides), FINETUNE)


@pytest.fixture(scope="module")
def tagged(base, table, tmp_path_factory):
    """A classifier over the encoder, and what its run told."""
    told, out = [], tmp_path_factory.mktemp("tagged") / "run"
    train_run(classifier(base, table, out, "model.part=encoder"), told.append)
    return out, told


def test_how_texts_go_on_is_learnt(base):
    losses = [row["loss"] for row in toy.rows_of(base, "train")]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


def test_a_classifier_takes_the_encoder_and_tells_what_it_leaves(base, tagged):
    out, told = tagged
    entries = json.loads((out / "ledger.json").read_text())["parameters"]
    begun = {entry["target"]: entry for entry in entries}
    dropped = {entry["source"].split("/")[0] for entry in entries if entry["action"] == "dropped"}
    assert dropped == {"decoder", "decoder_embeddings"}
    assert begun["embeddings/positions/embedding"]["action"] == "restored"
    assert any("dropped" in line for line in told)
    assert open_run(out).model.config.stacks[0].name == "encoder"
    losses = [row["loss"] for row in toy.rows_of(out, "train")]
    assert losses[-1] < losses[0]


def test_a_killed_run_of_the_encoder_ends_with_the_same_bits(base, table, tagged, tmp_path):
    out, _ = tagged
    again = tmp_path / "again"
    shutil.copytree(out, again)
    steps = sorted(int(x.name) for x in (again / "checkpoints").iterdir() if x.name.isdigit())
    assert len(steps) > 1
    shutil.rmtree(again / "checkpoints" / str(steps[-1]))
    config = classifier(base, table, out, "model.part=encoder")
    train_run(dataclasses.replace(config, out=str(again)), QUIET)
    toy.assert_same_arrays(toy.restored(again, steps[-1]), toy.restored(out, steps[-1]))


def test_it_predicts(tagged, tmp_path):
    out, _ = tagged
    (tmp_path / "in.jsonl").write_text('{"text": "the cat sees a bird near a river"}\n')
    predict(out, tmp_path / "in.jsonl", tmp_path / "out.jsonl", note=QUIET)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["label"] in tuned.LABELS


def test_without_a_part_the_decoder_that_nothing_reads_is_refused_with_what_to_set(
    base, table, tmp_path
):
    with pytest.raises(UserError, match=r"model\.part=encoder"):
        train_run(classifier(base, table, tmp_path / "run"), QUIET)


def decoder(words, base, out, *overrides):
    recipe = toy.recipe(words, out, "masked")
    recipe["model"] |= {"name": "bart", "decoder_layers": 1, "decoder_start_token_id": 2}
    recipe["model"]["part"] = "decoder"
    recipe |= {"objective": {"name": "causal_lm"}, "init": {"from": str(base)}}
    return load_config([recipe], (*SIX, *overrides))


def test_the_decoder_goes_on_as_a_causal_model(base, words, tmp_path):
    out = tmp_path / "run"
    train_run(decoder(words, base, out), QUIET)
    entries = json.loads((out / "ledger.json").read_text())["parameters"]
    dropped = {entry["source"] for entry in entries if entry["action"] == "dropped"}
    assert {name.split("/")[0] for name in dropped} == {"encoder", "embeddings", "decoder"}
    assert {name.split("/")[2] for name in dropped if name.startswith("decoder/")} == {
        "cross_attention",
        "cross_attention_norm",
    }
    assert not any(entry["action"] == "fresh" for entry in entries)
    losses = [row["loss"] for row in toy.rows_of(out, "train")]
    assert losses[-1] < losses[0]
    (made,) = generate_texts(out, ["the old man"], Sampling(max_new_tokens=4, temperature=0))
    assert made
    assert evaluate_run(out)["loss"] == pytest.approx(
        toy.rows_of(out, "validation")[-1]["loss"], rel=1e-6
    )
