"""What holds of every objective: the same step on one device, on eight and in microbatches; a run
that goes on to the bit; numbers that can be evaluated again."""

import shutil

import jax
import numpy as np
import optax
import pytest
import tiny
import toy

from jaxssl.core.names import flatten
from jaxssl.models.model import Model
from jaxssl.objectives.masked_diffusion import MaskedDiffusion
from jaxssl.objectives.masked_next_token import MaskedNextToken
from jaxssl.objectives.prefix_lm import PrefixLm
from jaxssl.objectives.replaced_tokens import Generator, ReplacedTokens
from jaxssl.objectives.span_boundary import SpanBoundary
from jaxssl.run.open import evaluate_run
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run

T, SLOTS = 32, 16
WHOLE = Generator(width=1.0, layers=0.5, num_heads=2)
OBJECTIVES = (
    SpanBoundary(slots=SLOTS, rate=0.3),
    ReplacedTokens(slots=SLOTS, generator=WHOLE),
    ReplacedTokens(slots=SLOTS, generator=WHOLE, embeddings="disentangled"),
    MaskedDiffusion(),
    MaskedNextToken(slots=SLOTS),
    PrefixLm(),
)
NAMES = ["span boundary", "electra", "disentangled", "diffusion", "masked next token", "prefix"]


def model_of(objective):
    config = tiny.bert(pooler=False, dropout=0.1)
    wanted = dict(objective.networks(config))
    main = wanted.pop("", None)
    others = tuple(
        Model(network.config, network.heads, root=name, ties=network.ties)
        for name, network in wanted.items()
    )
    return Model(config, objective.heads, ties=main.ties if main else (), others=others)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_a_step_is_the_same_on_one_device_on_eight_and_in_microbatches(objective):
    documents = [tiny.random_documents([18, 12], seed=i) for i in range(8)]
    batch = tiny.rows(documents, length=T)
    model, made = model_of(objective), {}
    for where, over, parts in (
        ("one", tiny.mesh(), 1),
        ("eight", tiny.mesh(2, 2, 2), 1),
        ("parts", tiny.mesh(), 2),
    ):
        program = tiny.program(
            model, objective, optax.sgd(0.1), batch, over=over, accumulation=parts
        )
        phase, state = tiny.begun(program)
        state, out = tiny.take(phase, state, batch)
        made[where] = (float(out["loss"]), flatten(jax.device_get(state.params)))
    loss, params = made["one"]
    assert np.isfinite(loss) and loss > 0
    for where in ("eight", "parts"):
        assert made[where][0] == pytest.approx(loss, rel=2e-6)
        for name, value in made[where][1].items():
            assert value == pytest.approx(params[name], abs=2e-6, rel=2e-5), name


RUNS = {
    "span_boundary": {"slots": 8},
    "replaced_tokens": {"slots": 8, "generator": {"width": 1.0, "layers": 0.5}},
    "masked_diffusion": {},
    "masked_next_token": {"slots": 8},
    "prefix_lm": {},
    "sentence_order": {},
    "sentence_distance": {},
    "distil": {"slots": 8},
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
    train_run(load_config([{**plain, "train": {"steps": 2}}]), quiet)
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
