"""Runs of several networks: each with its own start, resumed to the bit, opened, started from."""

import json
import shutil
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import jax
import numpy as np
import plugged
import pytest
import toy
from safetensors.numpy import load_file

from jaxssl.commands.export import export
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.core.registry import register
from jaxssl.objectives.base import Objective
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.simcse import SimCse
from jaxssl.run.build import build
from jaxssl.run.networks import with_networks
from jaxssl.run.open import evaluate_run, fill_masks, open_run
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run
from jaxssl.tasks.similarity import Similarity
from jaxssl.train.evaluation import DataPass, check_rows_enough, evaluate

TABLE = "embeddings/tokens/embedding"


@dataclass(frozen=True, kw_only=True)
class EveryToken(CausalLm):
    """Every token of a row has a next one: a token more is read than the model sees."""

    name: Literal["every_token"] = "every_token"  # type: ignore[assignment]
    """The objective."""

    def raw_length(self, length):
        return length + 1

    def corrupt(self, batch, seed, vocabulary):
        made = super().corrupt(batch, seed, vocabulary)
        return {
            name: x[:, :-1]
            for name, x in {**batch, **made}.items()
            if x.ndim == 2 and x.shape[1] > 2
        }


@pytest.fixture(scope="module", autouse=True)
def registered():
    """It can be named in recipes, here alone."""
    with plugged.unplugged():
        register(Objective, EveryToken)
        yield


def quiet(text):
    del text


def recipe(words, out, objective, **changes):
    plain = toy.recipe(words, out, "masked")
    plain["train"] = {"steps": 6}
    plain["evaluation"] = {"every": 3}
    plain["checkpoint"] = {"every": 3, "keep_last": 9}
    plain["logging"]["every"] = 1
    return {**plain, "objective": objective, **changes}


STILL = {"learning_rate": 1e-30}
SHORT = {
    "train": {"steps": 1},
    "evaluation": {"every": 0, "split": None},
    "optimizer": {"learning_rate": 0.003},
}
"""Of a run that is wanted for its parameters alone."""
MASKED = {"name": "masked_lm", "slots": 8}
RESIZED = [TABLE, "masked_lm/bias"]
GENERATOR = {"layers": 0.5, "width": 1.0, "num_heads": 2}
WHOLE = {**GENERATOR, "layers": 1.0}
ELECTRA = {"name": "replaced_tokens", "slots": 8, "weight": 1.0, "generator": GENERATOR}


@pytest.fixture(scope="module")
def electra(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("electra") / "run"
    outcome = train_run(load_config([recipe(words, out, ELECTRA)]), quiet)
    assert outcome.step == 6
    return out


@pytest.fixture(scope="module")
def base(words, tmp_path_factory):
    """A masked language model."""
    out = tmp_path_factory.mktemp("base") / "run"
    train_run(load_config([recipe(words, out, MASKED)]), quiet)
    return out


def test_both_networks_learn_and_are_validated(electra):
    rows = toy.rows_of(electra, "validation")
    assert len(rows) == 2
    wanted = {"loss", "loss/masked_lm", "loss/replaced_tokens", "perplexity"}
    assert wanted <= rows[-1].keys()
    assert rows[-1]["loss/masked_lm"] < rows[0]["loss/masked_lm"]
    found = toy.restored(electra, 6)
    names = {name for name in found if name.startswith(".params") or "'params'" in name}
    assert any("generator" in name for name in names)
    assert (
        sum("'embeddings'" in name and "'tokens'" in name for name in names) == 1
    )  # the shared table exists once


def test_a_killed_run_of_two_networks_goes_on_to_the_bit(electra, words, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(electra, out)
    shutil.rmtree(out / "checkpoints" / "6")
    config = load_config([recipe(words, out, ELECTRA)])
    assert train_run(config, quiet).step == 6
    toy.assert_same_arrays(toy.restored(out, 6), toy.restored(electra, 6))
    assert toy.rows_of(out, "train", "validation") == toy.rows_of(electra, "train", "validation")


def test_a_run_directory_says_how_its_networks_are_made(electra):
    values = evaluate_run(electra)
    assert values["loss/masked_lm"] == pytest.approx(
        toy.rows_of(electra, "validation")[-1]["loss/masked_lm"], rel=1e-5
    )
    assert open_run(electra).config.networks["generator"].model.num_layers == 1


@pytest.mark.slow
def test_a_run_starts_from_the_discriminator_or_from_the_generator(electra, words, tmp_path):
    for network, depth in ((None, 2), ("generator", 1)):
        table = {} if network is None else {"fresh": ["embeddings/**"]}
        init = {"from": str(electra), "network": network, "step": 6, **table}
        given = recipe(words, tmp_path / f"from-{network}", MASKED, init=init, **SHORT)
        del given["model"]
        config = load_config([given])
        assert config.model.num_layers == depth
        built = build(config)
        entries = built.work.program.start.entries
        dropped = {e.source.split("/")[0] for e in entries if e.action == "dropped"}
        wanted = {"generator", "replaced_tokens"} if network is None else {"replaced_tokens"}
        assert dropped <= wanted and ("generator" in dropped) == (network is None)
        outcome = train_run(config, quiet)
        assert outcome.step == 1
        noted = json.loads((tmp_path / f"from-{network}" / "ledger.json").read_text())
        names = noted["from"]["names"]
        lead = "" if network is None else "generator/"
        kernel = "encoder/layers/attention/query/kernel"
        assert names[kernel] == lead + kernel


def test_the_main_network_is_exported_whole(electra, tmp_path):
    said = []
    assert export(electra, tmp_path / "hf", say=said.append) == "BertModel"
    assert said == ["left out: replaced_tokens, which BertModel does not have"]
    params = flatten(jax.device_get(open_run(electra).params))
    found = load_file(tmp_path / "hf" / "model.safetensors")
    weight = next(x for name, x in found.items() if name.endswith("word_embeddings.weight"))
    np.testing.assert_array_equal(weight, params[TABLE])
    count = sum(x.size for x in flatten(open_run(electra, alone=True).params).values())
    assert f"| {count:,} |" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.slow
def test_a_run_of_two_networks_goes_on_with_another_remat(electra, words, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(electra, out)
    shutil.rmtree(out / "checkpoints" / "6")
    given = recipe(words, out, ELECTRA)
    given["model"]["remat"] = "full"
    assert train_run(load_config([given]), quiet).step == 6


@pytest.mark.slow
def test_both_networks_start_from_one_checkpoint(base, words, tmp_path):
    init = {"from": str(base), "drop": ["pooler/**"]}
    own = {**ELECTRA, "embeddings": "separate", "generator": WHOLE}
    given = recipe(words, tmp_path / "run", own, **SHORT)
    given["networks"] = {"generator": {"init": {**init, "resize": RESIZED}}}
    given["init"] = {**init, "resize": RESIZED[:1]}
    given["model"] = {**given["model"], "vocab_size": 144, "pooler": False}
    given["optimizer"] = STILL
    assert train_run(load_config([given]), quiet).step == 1
    found = flatten(jax.device_get(open_run(tmp_path / "run").params))
    first = flatten(jax.device_get(open_run(base).params))
    for lead in ("", "generator/"):
        np.testing.assert_array_equal(found[f"{lead}{TABLE}"][:136], first[TABLE])
    np.testing.assert_array_equal(found["generator/masked_lm/bias"][:136], first["masked_lm/bias"])


@pytest.mark.slow
def test_each_network_starts_from_what_it_is_told(base, words, tmp_path):
    networks = {"generator": {"init": {"from": str(base), "drop": ["pooler/**"]}}}
    objective = {**ELECTRA, "generator": WHOLE}
    still = {**SHORT, "optimizer": STILL}
    given = recipe(words, tmp_path / "run", objective, networks=networks, **still)
    built = build(load_config([given]))
    entries = {e.target: e for e in built.work.program.start.entries if e.target}
    assert entries["generator/masked_lm/bias"].action == "restored"
    assert entries["encoder/layers/attention/query/kernel"].action == "fresh"
    said = []
    assert train_run(load_config([given]), said.append).step == 1
    assert any(line.startswith(f"generator from step 6 of {base}") for line in said)
    first, found = (flatten(jax.device_get(open_run(x).params)) for x in (base, tmp_path / "run"))
    mine = "encoder/layers/attention/query/kernel"
    np.testing.assert_array_equal(found[f"generator/{mine}"], first[mine])
    assert not np.array_equal(found[mine], first[mine])


def distil(words, base, out, **changes):
    networks = {"teacher": {"init": {"from": str(base)}}}
    return recipe(words, out, {"name": "distil", "slots": 8}, networks=networks, **changes)


def test_a_teacher_keeps_its_bits_and_takes_no_room_in_checkpoints(words, base, tmp_path):
    out = tmp_path / "run"
    said, shared = [], base
    base = tmp_path / "base"
    shutil.copytree(shared, base)
    given = distil(words, base, out)
    assert train_run(load_config([given]), said.append).step == 6
    assert not any("teacher" in name for name in toy.restored(out, 6))
    assert any("frozen arrays: each has the bits it started with" in line for line in said)
    teacher = flatten(jax.device_get(open_run(base).params))
    found = flatten(jax.device_get(open_run(out, 6).params))
    for path, value in teacher.items():
        np.testing.assert_array_equal(found[f"teacher/{path}"], value, err_msg=path)
    values = evaluate_run(out)
    last = toy.rows_of(out, "validation")[-1]
    assert values["loss/distil"] == pytest.approx(last["loss/distil"], rel=1e-5)
    again = tmp_path / "again"
    shutil.copytree(out, again)
    shutil.rmtree(again / "checkpoints" / "6")
    train_run(load_config([{**given, "out": str(again)}]), quiet)
    toy.assert_same_arrays(toy.restored(again, 6), toy.restored(out, 6))
    shutil.rmtree(base)
    assert fill_masks(out, ["the [MASK] sees a dog."])[0], "without its teacher"
    with pytest.raises(UserError, match="networks.teacher.init"):
        evaluate_run(out)
    following = recipe(words, tmp_path / "next", MASKED, init={"from": str(out)}, **SHORT)
    del following["model"]
    following["freezing"] = {"preset": "head"}
    assert train_run(load_config([following]), quiet).step == 1
    assert fill_masks(tmp_path / "next", ["the [MASK] sees a dog."])[0]


def test_a_teacher_must_be_restored_whole(words, base, electra, tmp_path):
    given = distil(words, base, tmp_path / "run")
    given["networks"]["teacher"]["init"] = {"from": str(electra), "network": "generator"}
    given["networks"]["teacher"]["init"]["fresh"] = ["embeddings/**"]
    assert build(load_config([given])).work  # asked for
    headless = recipe(words, tmp_path / "x", {"name": "prefix_lm"}, **SHORT)
    headless |= {"out": str(tmp_path / "headless")}
    train_run(load_config([headless]), quiet)
    given["networks"]["teacher"]["init"] = {"from": headless["out"]}
    with pytest.raises(UserError, match="not trained would be random") as refused:
        build(load_config([given]))
    assert "masked_lm" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "said", "named"),
    [
        ({"hidden_size": 24}, "different widths", "objective.teacher_size"),
        ({"vocab_size": 144}, "different numbers of ids", "model.vocab_size"),
        ({"max_positions": 8}, "fewer positions", "networks.teacher.model.max_positions=8"),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_it_is_read(
    changes, said, named, words, tmp_path
):
    given = recipe(words, tmp_path / "run", {"name": "distil", "slots": 8})
    given["networks"] = {"teacher": {"model": {**given["model"], **changes}}}
    config = load_config([given])
    with pytest.raises(UserError, match=said) as refused:
        with_networks(config)
    assert named in str(refused.value)


@pytest.mark.slow
def test_a_student_like_its_teacher_has_nothing_to_learn(words, base, tmp_path):
    once = {**SHORT, "evaluation": {"every": 1}}
    given = distil(words, base, tmp_path / "run", init={"from": str(base)}, **once)
    values = dict(train_run(load_config([given]), quiet).validation)
    assert values["loss/distil"] < 0.05  # of one step
    given = distil(words, base, tmp_path / "fresh", **once)
    fresh = dict(train_run(load_config([given]), quiet).validation)
    assert fresh["loss/distil"] > 2 * values["loss/distil"]


@pytest.mark.parametrize(
    "networks, said",
    [
        ({}, "the shape of a network is not known"),
        ({"generator": {}}, "no objective of this run has such a network"),
    ],
)
def test_a_network_that_is_not_known_is_told(networks, said, words, tmp_path):
    given = recipe(words, tmp_path / "run", {"name": "distil", "slots": 8}, networks=networks)
    with pytest.raises(UserError, match=said):
        build(load_config([given]))


@pytest.mark.slow
def test_one_set_of_weights_is_a_prefix_lm_and_a_masked_lm_by_turns(words, tmp_path):
    plain = recipe(words, tmp_path / "run", None)
    data = plain.pop("data")
    plain.pop("objective")
    streams = {
        "masked": {"objective": {"name": "masked_lm", "slots": 8}, "data": data},
        "prefix": {"objective": {"name": "prefix_lm"}, "data": {**data, "seed": 1}},
    }
    given = {**plain, "streams": streams, "mixture": {"name": "by_turns", "seed": 0}}
    given |= {"train": {"steps": 20}, "evaluation": {"every": 10}}
    config = load_config([given])
    reached = build(config).work.program.reached
    both = reached["masked"] & reached["prefix"]
    assert sum(path.startswith("encoder/") for path in both) > 10
    train_run(config, quiet)
    first, last = toy.rows_of(tmp_path / "run", "validation")
    for number in ("masked/loss", "prefix/loss", "prefix/perplexity"):
        assert last[number] < first[number], number


@pytest.mark.slow
def test_contrast_beside_masked_lm_trains_on_microbatches_as_on_one_batch(words, tmp_path):
    terms = [{"objective": MASKED}, {"objective": {"name": "simcse"}}]
    trained, validated = {}, {}
    for parts in (1, 4):
        out = tmp_path / f"run-{parts}"
        given = recipe(words, out, {"name": "combine", "terms": terms})
        given["train"] = {"steps": 3, "accumulation": parts}
        given["optimizer"]["schedule"]["warmup"] = 1
        given["data"] |= {"batch_size": 32, "rows": {"name": "documents"}}
        train_run(load_config([given]), quiet)
        trained[parts], validated[parts] = (toy.rows_of(out, kind)[-1] for kind in KINDS)
    for rows in (trained, validated):
        for number in ("loss/simcse", "loss/masked_lm"):
            assert rows[1][number] == pytest.approx(rows[4][number], rel=1e-3)


KINDS = ("train", "validation")


@pytest.mark.parametrize("size, count", [(1, 9), (8, 1)])
def test_a_row_is_not_told_from_nothing(size, count):
    rows = DataPass(data=SimpleNamespace(num_rows=count), mesh=None, batch_size=size)
    with pytest.raises(UserError, match="there is one row"):
        evaluate(None, SimCse(), {}, rows)
    check_rows_enough(rows, Similarity(pair="pair", negatives=("other",)))  # its own are enough


def test_an_objective_reads_as_many_tokens_as_it_shortens_rows_by(byte_store, tmp_path):
    given = toy.recipe(byte_store, tmp_path / "run", "gpt2")
    given |= {"objective": {"name": "every_token"}, "train": {"steps": 6}}
    given["model"]["max_positions"] = 16  # as many as the model sees, one less than are read
    config = load_config([given])
    built = build(config)
    assert built.work.program.streams[0].batch["tokens"].shape == (8, 17)
    outcome = train_run(config, quiet)
    assert outcome.validation["loss"] == pytest.approx(evaluate_run(tmp_path / "run")["loss"])
    terms = [{"objective": {"name": "every_token"}, "name": "every"}]
    terms.append({"objective": {"name": "causal_lm"}})
    given["objective"] = {"name": "combine", "terms": terms}
    with pytest.raises(UserError, match="rows of different lengths"):
        build(load_config([{**given, "out": str(tmp_path / "other")}]))
