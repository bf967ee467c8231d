"""Runs over a base that is held in codes: what they compute, keep, save and merge into."""

import json
import shutil

import numpy as np
import pytest
import toy
import tuned

from jaxssl import cli
from jaxssl.commands.merge import merge
from jaxssl.commands.written_run import write_run
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.ops.codes import Coded, decode, encode
from jaxssl.parallel.rules import use_layout
from jaxssl.program.coded import block_axis, is_codable
from jaxssl.program.phase import Phases, base_params
from jaxssl.program.state import abstract_params
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.train import train_run
from jaxssl.train.metrics_file import read_metrics

QUIET = lambda text: None  # noqa: E731
LORA = ("peft.name=lora", "peft.targets=[all-linear]", "train.epochs=2", "checkpoint.every=9")
RATE = "optimizer.learning_rate=1e-3"
"""At which rounding stays small over 18 steps."""
KERNELS = {"query", "key", "value", "output", "up", "down"}


def trained(base, table, out, *settings):
    outcome = train_run(tuned.configured(base, table, out, *LORA, RATE, *settings), QUIET)
    return out, outcome


@pytest.fixture(scope="module")
def run(base, table, tmp_path_factory):
    """A classifier by LoRA over a base in nf4; nine steps an epoch."""
    return trained(base, table, tmp_path_factory.mktemp("coded") / "run", "precision.frozen=nf4")


def of_training(run_dir):
    """The parameters of a run as they were trained with, and those that were in codes."""
    flat = flatten(open_run(run_dir, "last").params)
    in_codes = {path for path, x in flat.items() if isinstance(x, Coded)}
    return {p: np.asarray(decode(x) if p in in_codes else x) for p, x in flat.items()}, in_codes


def test_the_kernels_of_layers_are_in_codes_and_nothing_else(run, base):
    values, in_codes = of_training(run[0])
    assert {path.split("/")[-2] for path in in_codes} == KERNELS and len(in_codes) == len(KERNELS)
    before = tuned.whole(base)
    for path, x in before.items():
        if path.startswith(("encoder/", "embeddings/")):
            assert np.array_equal(values[path], x) == (path not in in_codes), path
    assert max(np.abs(values[path] - before[path]).max() for path in in_codes) < 0.02


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_it_is_training_over_a_base_of_the_values_that_the_codes_stand_for(
    form, run, base, table, tmp_path
):
    opened = open_run(base, "last")
    boxed, flat = flatten(abstract_params(opened.model)), flatten(opened.params)
    for path in filter(is_codable, flat):
        flat[path] = decode(encode(flat[path], form, block_axis(boxed[path])))
    rounded = write_run(tmp_path / "rounded", opened, base, unflatten(flat), "rounded")
    plain, outcome = trained(rounded, table, tmp_path / "plain")
    mine = run if form == "nf4" else trained(base, table, tmp_path / "run", "precision.frozen=int8")
    assert mine[1].validation == pytest.approx(dict(outcome.validation), rel=1e-5)
    expected, values = tuned.whole(plain), of_training(mine[0])[0]
    assert values.keys() == expected.keys()
    for path, x in expected.items():
        np.testing.assert_allclose(values[path], x, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize("mesh", ["mesh.fsdp=8", "mesh.data=2 mesh.fsdp=2 mesh.tensor=2"])
def test_it_is_the_same_on_any_mesh(mesh, run, base, table, tmp_path):
    _, outcome = trained(base, table, tmp_path / "run", "precision.frozen=nf4", *mesh.split())
    assert outcome.validation["loss"] == pytest.approx(run[1].validation["loss"], rel=1e-5)


def test_cut_off_and_started_again_it_ends_with_the_same_bits(run, base, table, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run[0], again)
    shutil.rmtree(again / "checkpoints" / "18")
    trained(base, table, again, "precision.frozen=nf4")
    toy.assert_same_arrays(toy.restored(again, 18), toy.restored(run[0], 18))


def test_going_on_in_other_codes_is_refused(run, base, table, tmp_path):
    again = tmp_path / "run"
    shutil.copytree(run[0], again)
    shutil.rmtree(again / "checkpoints" / "18")
    with pytest.raises(UserError, match="belongs to a different configuration"):
        trained(base, table, again, "precision.frozen=int8")


def test_the_receipt_counts_what_is_held(run, base):
    own = json.loads((run[0] / "receipt.json").read_text())["own"]
    flat = {p: x for p, x in tuned.whole(base).items() if p.startswith(("encoder/", "embeddings/"))}
    coded = [x for path, x in flat.items() if is_codable(path)]
    plain = sum(x.nbytes for path, x in flat.items() if not is_codable(path))
    scales = sum(4 * x.size // (32 if 32 in x.shape else 16) for x in coded)  # blocks of 32 and 16
    assert own["frozen_bytes"] == plain + sum(x.size // 2 for x in coded) + scales


def scored_alike(run_dir, step=18):
    """The scores of a checkpoint, which are those that training noted of it."""
    rows = [row for row in read_metrics(run_dir) if row["kind"] == "validation"]
    (noted,) = [row for row in rows if row["step"] == step]
    scores = evaluate_run(run_dir, step=step)
    assert scores.keys() - {"rows"} <= noted.keys() and scores["step"] == noted["step"]
    for name in scores.keys() - {"rows"}:
        assert scores[name] == pytest.approx(noted[name], rel=1e-6), name
    return scores


def test_opened_again_it_scores_the_same_and_so_does_what_it_is_merged_into(run, tmp_path):
    scores = scored_alike(run[0])
    merged = merge(run[0], tmp_path / "merged", step="last", say=QUIET)
    after = evaluate_run(merged)
    for name, value in scores.items():
        assert after[name] == pytest.approx(value, rel=3e-6), name
    assert open_run(merged).config.precision.frozen is None
    values, in_codes = of_training(merged)
    assert not in_codes and not [path for path in values if path.startswith("adapters/")]


def test_what_is_trained_later_is_not_in_codes(base, table, tmp_path):
    """Layer 1 thaws after an epoch; layer 0 stays frozen, and its kernels alone were in codes."""
    stages = ("freezing.preset=head", "freezing.stages=[{epoch: 1, preset: top, top: 1}]")
    config = tuned.configured(
        *(base, table, tmp_path / "run", RATE, "precision.frozen=int8", *stages),
        *("train.epochs=2", "checkpoint.every=9"),
    )
    train_run(config, QUIET)
    noted = json.loads((tmp_path / "run" / "frozen.json").read_text())
    in_codes = [path for path in noted if path.endswith("kernel.codes")]
    assert len(in_codes) == len(KERNELS) and all("layers[0:1]" in path for path in in_codes)
    values, before = of_training(tmp_path / "run")[0], tuned.whole(base)
    for path in filter(is_codable, before):
        moved = np.abs(values[path] - before[path]).reshape(2, -1).max(1)
        assert 0 < moved[0] < 0.002 < moved[1], path
    assert scored_alike(tmp_path / "run", 18)["step"] == 18
    assert scored_alike(tmp_path / "run", 9)["step"] == 9  # before layer 1 was trained


def test_where_there_is_nothing_to_code_it_is_refused(base, table, tmp_path):
    nf4 = "precision.frozen=nf4"
    config = tuned.configured(base, table, tmp_path / "run", nf4)
    with pytest.raises(UserError, match="no frozen parameter can be held in codes") as caught:
        train_run(config, QUIET)
    assert "0 stacks of frozen kernels" in str(caught.value)
    cast = ("peft.name=lora", "precision.parameters=bfloat16", "init.cast=true", nf4)
    with pytest.raises(UserError, match="no frozen parameter") as caught:
        train_run(tuned.configured(base, table, tmp_path / "run", *cast), QUIET)
    assert "6 stacks of frozen kernels" in str(caught.value) and "dtype" in str(caught.value)


def test_a_run_without_codes_is_not_opened_in_codes_and_one_with_them_may_be_without(run, base):
    with pytest.raises(UserError, match="trained without codes"):
        open_run(base, layers=["precision.frozen=nf4"])
    plain = flatten(open_run(run[0], "last", ["precision.frozen=null"]).params)
    assert not any(isinstance(x, Coded) for x in plain.values())
    before = tuned.whole(base)
    assert all(np.array_equal(plain[path], x) for path, x in before.items() if is_codable(path))


def test_the_receipt_compares_with_training_everything(base, table, tmp_path):
    """Which has nothing frozen, and nothing in codes."""
    once = ("train.steps=1", "train.epochs=null", "checkpoint.every=1")
    compared = ("precision.frozen=nf4", "logging.compare_full=true", *once)
    lines = []
    train_run(
        tuned.configured(base, table, tmp_path / "run", "peft.name=lora", *compared), lines.append
    )
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert receipt["full"]["frozen_bytes"] == 0 < receipt["own"]["frozen_bytes"]
    assert "held in nf4: 6 of 6 stacks of frozen kernels" in lines


def test_what_was_trained_over_codes_and_is_used_without_is_told(run, table, tmp_path, capsys):
    once = ("peft.name=lora", "peft.targets=[all-linear]", "train.steps=1", "train.epochs=null")
    lines = []
    train_run(tuned.configured(run[0], table, tmp_path / "plain", *once), lines.append)
    (line,) = [line for line in lines if "over a base in nf4" in line]
    assert "taken as it is" in line and "precision.frozen=nf4" in line
    alike = tuned.configured(run[0], table, tmp_path / "alike", *once, "precision.frozen=nf4")
    told = []
    train_run(alike, told.append)
    assert not [line for line in told if "over a base in" in line]
    evaluate_run(tmp_path / "plain", adapters=[f"{run[0]}#default"])
    assert "over a base in nf4" in capsys.readouterr().err


def test_inspect_says_what_each_device_holds_of_the_codes(base, table, tmp_path, capsys):
    once = ("train.steps=1", "train.epochs=null", "precision.frozen=int8", "mesh.fsdp=8")
    config = tuned.configured(base, table, tmp_path / "run", "peft.name=lora", *once)
    train_run(config, QUIET)
    program = build(config).work.program
    with use_layout(program.mesh, config.mesh.layout()):
        frozen = flatten(base_params(Phases(program).at(0)))
    held = [part for x in frozen.values() if isinstance(x, Coded) for part in (x.codes, x.scale)]
    whole = sum(x.nbytes for x in held)
    own = sum(x.addressable_shards[0].data.nbytes for x in held)
    assert cli.main(["inspect", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"in int8: {whole:,} bytes, {own:,} on each device" in said
