"""What holds of every objective: a run goes on to the bit, and its numbers can be evaluated
again. Those with networks beside the main one are in `run/test_networks.py`."""

import shutil

import numpy as np
import pytest
import toy

from jaxssl.run.open import evaluate_run
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run

RUNS = {
    "span_boundary": {"slots": 8},
    "masked_diffusion": {},
    "masked_next_token": {"slots": 8},
    "prefix_lm": {},
    "sentence_order": {},
    "sentence_distance": {},
    "simcse": {"projection": True},
    "auto_encode": {"deleted": 0.3},
    "passages": {"shortest": 2},
}
PAIRS = ("sentence_order", "sentence_distance")


def quiet(text):
    del text


def recipe(name, words, out):
    plain = toy.recipe(words, out, "bert" if name in PAIRS else "masked")
    plain["objective"] = {"name": name, **RUNS[name]}
    plain |= {"train": {"steps": 6}, "evaluation": {"every": 3}}
    plain["checkpoint"] = {"every": 3, "keep_last": 9}
    plain["logging"]["every"] = 1
    if name in PAIRS:
        plain["data"]["rows"]["label"] = name
    else:
        plain["model"]["pooler"] = False
    if name in ("simcse", "auto_encode"):
        plain["data"]["rows"] = {"name": "documents"}
    return plain


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_bit_and_is_evaluated_again(name, words, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train_run(load_config([recipe(name, words, whole)]), quiet).step == 6
    rows = toy.rows_of(whole, "validation")
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)
    values = evaluate_run(whole, step="last")
    assert values["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "6")
    assert train_run(load_config([recipe(name, words, cut)]), quiet).step == 6
    toy.assert_same_arrays(toy.restored(cut, 6), toy.restored(whole, 6))
    assert toy.rows_of(cut, "train", "validation") == toy.rows_of(whole, "train", "validation")
