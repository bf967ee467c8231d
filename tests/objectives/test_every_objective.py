"""What holds of every objective: a run goes on to the bit, and its numbers can be evaluated
again."""

import shutil

import numpy as np
import pytest
import toy

import jaxssl.objectives.registry  # noqa: F401
from jaxssl.core.registry import choice_name, members
from jaxssl.data.corpus.sources import Docstrings
from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts
from jaxssl.objectives.base import Objective
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
    "causal_lm": {},
    "fill_in_middle": {"most": 2, "rate": 0.9},
    "span_corruption": {},
    "ul2": {},
    "continuation": {},
    "denoising": {},
}
ELSEWHERE = {  # where the runs of these are killed
    "masked_lm": "train/test_resume.py",
    "next_sentence": "train/test_resume.py",
    "combine": "train/test_resume.py",
    "replaced_tokens": "run/test_networks.py",
    "distil": "run/test_networks.py",
}
MARKS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "[NLU]", "[NLG]", "[S2S]")
TWO_SIDES = ("span_corruption", "ul2", "continuation", "denoising")
PAIRS = ("sentence_order", "sentence_distance")


def quiet(text):
    del text


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A store whose tokenizer has the special tokens that some objectives write."""
    config = TokenizerTrainConfig(
        source=Docstrings(),
        out="toy-marked",
        kind="wordpiece",
        vocab_size=320,
        special_tokens=MARKS,
        sentinels=8,
    )
    tokenizer = train_on_texts(config, lambda: ["".join(text) for text in toy.documents(100)])
    place = tmp_path_factory.mktemp("marked") / "store"
    return toy.write_store(place, tokenizer, {"train": 100, "validation": 9})


def test_no_objective_is_left_out():
    own = [kind for kind in members(Objective) if kind.__module__.startswith("jaxssl.objectives")]
    assert {*RUNS, *ELSEWHERE} == {choice_name(kind) for kind in own}


def recipe(name, store, out):
    plain = toy.recipe(store, out, "bert" if name in PAIRS else "masked")
    if name in TWO_SIDES:
        plain["model"] |= {"name": "t5", "head_width": 8}
    elif name in ("causal_lm", "fill_in_middle"):
        plain["model"]["name"] = "gpt2"
    plain["objective"] = {"name": name, **RUNS[name]}
    plain |= {"train": {"steps": 6}, "evaluation": {"every": 3}}
    plain["checkpoint"] = {"every": 3, "keep_last": 9}
    plain["logging"]["every"] = 1
    if name in PAIRS:
        plain["data"]["rows"]["label"] = name
    elif plain["model"]["name"] == "bert":
        plain["model"]["pooler"] = False
    if name in ("simcse", "auto_encode"):
        plain["data"]["rows"] = {"name": "documents"}
    return plain


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_goes_on_to_the_bit_and_is_evaluated_again(name, marked, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train_run(load_config([recipe(name, marked, whole)]), quiet).step == 6
    rows = toy.rows_of(whole, "validation")
    assert len(rows) == 2 and all(np.isfinite(row["loss"]) for row in rows)
    values = evaluate_run(whole, step="last")
    assert values["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints" / "6")
    assert train_run(load_config([recipe(name, marked, cut)]), quiet).step == 6
    toy.assert_same_arrays(toy.restored(cut, 6), toy.restored(whole, 6))
    assert toy.rows_of(cut, "train", "validation") == toy.rows_of(whole, "train", "validation")
