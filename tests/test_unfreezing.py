"""One run with everything that grows or remembers: stages, averages, anchors, accumulation.

Two stages of unfreezing, weight decay, momentum, clipping, an average, L2-SP and mixout, in two
microbatches; killed inside a stage and at the beginning of one, it must end with the same bits.
"""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
import tuned

from jaxssl.checkpoint.manager import CheckpointManager, stored_arrays
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.run.build import build
from jaxssl.run.open import open_run
from jaxssl.run.train import train_run
from jaxssl.train import encode_once

OVERRIDES = (
    "freezing.preset=head",
    "freezing.cache=false",
    "freezing.stages=[{epoch: 1, preset: top, top: 1}, {epoch: 2, preset: top, top: 2}]",
    "regularization={l2_sp: 0.1, l2_sp_fresh: 0.01, mixout: 0.5}",
    "train={epochs: 3, ema: 0.9, accumulation: 2}",
    "optimizer.clip_norm=0.5",
    "checkpoint={every: 1, keep_last: 99}",
    "data.batch_size=16",
)
HEAD = ("freezing.preset=head",)
PER_EPOCH = 5  # 72 examples in batches of 16


@pytest.fixture(scope="module")
def staged(base, table, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("staged") / "run", []
    config = tuned.configured(base, table, out, *OVERRIDES)
    return config, train_run(config, said.append), said


def arrays(config, step):
    return toy.restored(Path(config.out), step)


def stored_names(config, step):
    path = CheckpointManager(Path(config.out) / "checkpoints").path(step)
    return flatten(stored_arrays(path)["params"]).keys()


def test_each_stage_trains_and_saves_what_it_should(staged):
    config, outcome, said = staged
    assert outcome.step == 3 * PER_EPOCH
    first, second, third = (stored_names(config, PER_EPOCH * i) for i in (1, 2, 3))
    assert {name.split("/")[0] for name in first} == {"classify"}
    assert {name.split("/")[1] for name in second - first} == {"layers[1:2]"}
    assert {name.split("/")[1] for name in third - second} == {"layers[0:1]"}
    assert sum("more parameters are trained" in line for line in said) >= 2


def test_moments_carry_over_and_new_ones_count_for_themselves(staged):
    config = staged[0]
    count = lambda name: "stage" in name and "count" in name
    by_stage = lambda step: sorted(
        int(x) for name, x in arrays(config, step).items() if count(name)
    )
    assert by_stage(5) == [5] and by_stage(10) == [5, 10] and by_stage(15) == [5, 10, 15]


def test_what_no_stage_trains_is_bit_identical(base, staged):
    config, outcome, said = staged
    before, after = tuned.whole(base), tuned.whole(Path(config.out))
    for name in before.keys() & after.keys():
        if name.startswith("embeddings"):
            assert np.array_equal(before[name], after[name]), name
        elif "/key/bias" not in name:
            assert not np.array_equal(before[name], after[name]), name
    known = json.loads((Path(config.out) / "frozen.json").read_text())
    assert outcome.frozen_arrays == len(known) > 0
    assert all(name.startswith("embeddings") for name in known)
    assert any("frozen arrays: each has the bits it started with" in line for line in said)


@pytest.mark.parametrize("step", [5, 7])
def test_resumed_at_a_boundary_and_inside_a_stage_it_ends_with_the_same_bits(
    staged, base, table, tmp_path, step
):
    config, outcome, _ = staged
    out = tmp_path / "run"
    shutil.copytree(config.out, out)
    manager = CheckpointManager(out / "checkpoints")
    for later in manager.steps():
        if later > step:
            shutil.rmtree(manager.path(later))
    said = []
    again = tuned.configured(base, table, out, *OVERRIDES)
    train_run(again, said.append)
    assert f"resuming at step {step}" in said
    toy.assert_same_arrays(toy.restored(out, outcome.step), arrays(config, outcome.step))
    # Killed behind the note of a stage and before the save of its first step, it tells it once.
    assert toy.rows_of(out) == toy.rows_of(Path(config.out))
    assert [row["step"] for row in toy.rows_of(out, "note")] == [6, 11]


def test_later_use_takes_the_average(staged):
    config, outcome, _ = staged
    state = arrays(config, outcome.step)
    path = lambda part: f"['{part}']['classify']['output']['kernel']"
    assert not np.array_equal(state[path("ema")], state[path("params")])
    params = flatten(open_run(config.out, "last").params)
    assert np.array_equal(params["classify/output/kernel"], state[path("ema")])


def test_encoding_once_learns_the_same_as_encoding_each_epoch(base, table, tmp_path):
    """Without dropout in the frozen body, which is left out where examples are encoded once."""
    ends = {}
    for cache in ("true", "false"):
        out, said = tmp_path / cache, []
        changes = ("freezing.preset=head", f"freezing.cache={cache}", "train.epochs=3")
        changes += ("logging.compare_full=true",)
        changes += ("model.dropout=0", "model.attention_dropout=0", "task.dropout=0")
        outcome = train_run(tuned.configured(base, table, out, *changes), said.append)
        features = [line for line in said if "encoded once" in line]
        assert bool(features) == (cache == "true")
        if features:  # one state of 16 numbers for each of 72 rows
            assert f"{72 * 16 * 4:,} bytes" in features[0]
        ends[cache] = tuned.whole(out), outcome.validation
    for name, value in ends["true"][0].items():
        np.testing.assert_allclose(value, ends["false"][0][name], rtol=1e-4, atol=1e-6)
    assert ends["true"][1]["loss"] == pytest.approx(ends["false"][1]["loss"], rel=1e-4)
    receipts = [json.loads((tmp_path / c / "receipt.json").read_text()) for c in ends]
    assert receipts[0]["full"] == receipts[1]["full"]
    assert receipts[0]["own"]["flops"] < 0.01 * receipts[0]["full"]["flops"]
    assert receipts[1]["own"]["flops"] == pytest.approx(receipts[1]["full"]["flops"] / 3, rel=0.05)
    for receipt in receipts:
        own, full = receipt["own"], receipt["full"]
        assert own["trained"] == 2 * 16 + 2
        assert own["optimizer_bytes"] < 8 * own["trained"] + 64
        assert full["optimizer_bytes"] >= 8 * receipt["parameters"]


def test_features_that_would_not_fit_are_refused_with_their_size(base, table, tmp_path):
    work = build(tuned.configured(base, table, tmp_path / "run", *HEAD)).work
    assert encode_once.planned_bytes(work.program, work.feeds.first) == (72 + 18) * 16 * 4
    with pytest.raises(UserError, match=r"(?s)do not fit.*1,000,000,000,000,000.*cache=false"):
        encode_once.check_memory(10**15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["freezing.gradual=1"], "starts from the head"),
        (["freezing.preset=head", "freezing.gradual=5"], "does not fit the run"),
        (["freezing.stages=[{epoch: 1, preset: head}]"], "must train all that was trained before"),
        (
            ["freezing.preset=head", "freezing.stages=[{epoch: 1, preset: head}]"],
            "must train all that was trained before, and more",
        ),
        (["freezing.stages=[{epoch: 2}, {epoch: 1}]"], "not in order"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(base, table, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        build(tuned.configured(base, table, tmp_path / "run", *changes))


def test_gradual_unfreezing_adds_a_layer_at_a_time_and_the_embeddings_last(base, table, tmp_path):
    changes = ("freezing.preset=head", "freezing.gradual=2")
    program = build(tuned.configured(base, table, tmp_path / "run", *changes)).work.program
    assert [stage.first_step for stage in program.stages] == [0, 18, 36, 54]
    leaves = flatten(program.model.abstract())
    trained_parts = [
        {"/".join(path.split("/")[:2]) for path in leaves if stage.is_trained(path)}
        for stage in program.stages
    ]
    first, second, third, last = trained_parts
    assert first == {"classify/output"}
    assert second - first == {"encoder/layers[1:2]"} and third - second == {"encoder/layers[0:1]"}
    assert all(name.startswith("embeddings") for name in last - third) and last > third
    assert len(jax.tree.leaves(program.model.abstract())) == len(leaves)
