"""What holds of every objective: a run goes on to the bit, and its numbers can be evaluated
again."""

import shutil

import numpy as np
import pytest
import toy

from jaxssl.run.open import evaluate_run
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run

RUNS = {
    "span_boundary": {"slots": 8},
    "replaced_tokens": {"slots": 8, "generator": {"width": 1.0, "layers": 0.5}},
    "masked_diffusion": {},
    "masked_next_token": {"slots": 8},
    "prefix_lm": {},
    "sentence_order": {},
    "sentence_distance": {},
    "distil": {"slots": 8},
    "simcse": {"projection": True},
}
PAIRS = ("sentence_order", "sentence_distance")


def quiet(text):
    del text


@pytest.fixture(scope="module")
def teacher(words, tmp_path_factory):
    """A masked language model to learn from."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    plain = toy.recipe(words, out, "masked")
    plain["model"]["pooler"] = False
    train_run(load_config([{**plain, "train": {"steps": 6}}]), quiet)
    return out


def recipe(name, words, teacher, out):
    plain = toy.recipe(words, out, "bert" if name in PAIRS else "masked")
    plain["objective"] = {"name": name, **RUNS[name]}
    plain |= {"train": {"steps": 6}, "evaluation": {"every": 3}}
    plain["checkpoint"] = {"every": 3, "keep_last": 9}
    plain["logging"]["every"] = 1
    if name in PAIRS:
        plain["data"]["rows"]["label"] = name
    else:
        plain["model"]["pooler"] = False
    if name == "simcse":
        plain["data"]["rows"] = {"name": "documents"}
    if name == "distil":
        plain["networks"] = {"teacher": {"init": {"from": str(teacher)}}}
        plain["init"] = {"from": str(teacher), "layers": [1]}
        del plain["model"]
        plain["model"] = {"num_layers": 1}
    return plain


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_bit_and_is_evaluated_again(name, words, teacher, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train_run(load_config([recipe(name, words, teacher, whole)]), quiet).step == 6
    rows = toy.rows_of(whole, "validation")
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)
    values = evaluate_run(whole, step="last")
    assert values["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "6")
    assert train_run(load_config([recipe(name, words, teacher, cut)]), quiet).step == 6
    toy.assert_same_arrays(toy.restored(cut, 6), toy.restored(whole, 6))
    assert toy.rows_of(cut, "train", "validation") == toy.rows_of(whole, "train", "validation")
