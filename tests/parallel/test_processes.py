"""Two processes train as one does, and their checkpoint is anyone's."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import compiled
import pytest
import toy
import tuned
from several import STEPS, arguments, free_port, start_both, start_two, train_in_two

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.train import train_run


@pytest.fixture(scope="module")
def both(words, tmp_path_factory):
    """(trained by two processes, trained by one, what the two said)."""
    two, one = (tmp_path_factory.mktemp("processes") / name for name in ("two", "one"))
    said = train_in_two(two, words)
    code, _, err = toy.finish(toy.start(arguments(one, words)))
    assert code == 0, err
    return two, one, said


def test_two_processes_end_where_one_does(both):
    two, one, said = both
    for code, _, err in said:
        assert code == 0, err
    toy.assert_close_arrays(toy.restored(two, STEPS), toy.restored(one, STEPS))


def test_they_take_the_same_batches_and_write_every_row_once(both):
    two, one, _ = both
    rows, wanted = toy.rows_of(two), toy.rows_of(one)
    assert [(row["kind"], row["step"]) for row in rows] == [
        (row["kind"], row["step"]) for row in wanted
    ]
    for row, want in zip(rows, wanted, strict=True):
        numbers = {name: value for name, value in want.items() if isinstance(value, float)}
        assert numbers or want["kind"] == "fill_mask"
        for name, value in numbers.items():
            assert row[name] == pytest.approx(value, rel=1e-5), name


def test_only_the_first_speaks(both):
    _, _, ((_, first, _), (_, second, _)) = both
    assert "parameters, 2 cpu" in first and "report:" in first
    assert "report:" not in second and "parameters, objective" not in second


def test_one_process_goes_on_with_what_two_have_saved(both):
    two, _, _ = both
    assert open_run(two, "last").step == STEPS
    assert evaluate_run(two)["loss"] == pytest.approx(
        toy.rows_of(two, "validation")[-1]["loss"], rel=1e-5
    )


def test_a_signal_to_one_process_has_both_save_the_same_step_and_exit_with_75(words, tmp_path):
    out = tmp_path / "run"
    endless = ("train.steps=100000", "evaluation.every=0", "checkpoint.every=100000")
    processes = start_two(out, words, *endless)
    started = time.monotonic()
    while not (out / "metrics.jsonl").is_file() or not toy.rows_of(out, "train"):
        assert all(process.poll() is None for process in processes), "it ended by itself"
        assert time.monotonic() - started < 200
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    ends = [toy.finish(process) for process in processes]
    assert [code for code, _, _ in ends] == [75, 75], ends
    (step,) = CheckpointManager(out / "checkpoints").steps()
    assert f"a signal to another process: saved step {step}" in ends[0][1]
    assert toy.rows_of(out, "train")[-1]["step"] == step


@pytest.mark.slow
def test_two_processes_fine_tune_and_score_as_one_does(base, table, tmp_path):
    changes = ("freezing.preset=top", "freezing.top=1", "train.epochs=1", "checkpoint.every=4")
    out = {number: tmp_path / str(number) for number in (1, 2)}
    train_run(tuned.configured(base, table, out[1], *changes), lambda text: None)
    tuned.configured(base, table, out[2])  # writes its recipe
    command = ["finetune", tmp_path / "2.json", *changes]
    for code, _, err in [toy.finish(process) for process in start_both(command)]:
        assert code == 0, err
    one, two = (json.loads((out[n] / "scores.json").read_text()) for n in (1, 2))
    assert one["step"] == two["step"]
    for name, value in one["splits"]["validation"]["scores"].items():
        assert two["splits"]["validation"]["scores"][name] == pytest.approx(value, rel=1e-5), name
    frozen = [json.loads((out[n] / "frozen.json").read_text()) for n in (1, 2)]
    assert frozen[0] == frozen[1] and frozen[0]


LAYOUTS = """
import sys, jax, numpy as np
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import MeshConfig, batch_sharding, make_mesh
rows = np.arange(16, dtype=np.int32).reshape(8, 2)
for sizes in ((2, 1, 1), (1, 2, 1), (1, 1, 2)):
    mesh = make_mesh(MeshConfig(**dict(zip(("data", "fsdp", "tensor"), sizes))))
    sharding = batch_sharding(mesh)
    places = hosts.local_places(sharding, 8)
    assert len(places) == (8 if sizes[2] == 2 else 4), (sizes, places)
    array = hosts.global_batch({"rows": rows[places]}, sharding, 8)["rows"]
    assert array.shape == (8, 2)
    for shard in array.addressable_shards:
        assert np.array_equal(shard.data, rows[shard.index]), (sizes, shard.index)
    total = jax.jit(lambda x: (x * x).sum())(array)
    assert int(total) == int((rows * rows).sum()), sizes
print("all layouts")
"""


def test_every_layout_gives_each_process_the_rows_its_devices_hold():
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "XLA_FLAGS": compiled.flags(1)}
    start = lambda number: subprocess.Popen(
        [sys.executable, "-c", LAYOUTS, address, str(number)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for process in [start(0), start(1)]:
        out, err = process.communicate(timeout=300)
        assert out.endswith("all layouts\n"), err


def test_processes_that_are_not_alike_are_refused_in_both(words, tmp_path):
    """They would train on together, to a result of neither."""
    own = (("train.seed=0",), ("train.seed=1", "optimizer.learning_rate=0.01"))
    for code, _, err in map(toy.finish, start_both(arguments(tmp_path / "run", words), own)):
        assert code == 2 and "Traceback" not in err, err
        assert "not alike" in err or "ended with exit code 2" in err
        assert "optimizer.learning_rate: 0.003 in process 0, 0.01 in process 1" in err
        assert "train.seed: 0 in process 0, 1 in process 1" in err
    assert not (tmp_path / "run").exists()


def test_a_mistake_found_by_the_first_process_ends_both(words, tmp_path):
    """The run directory holds something else: only the first looks, and neither waits for ever."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    (first, _, told), (second, _, other) = train_in_two(tmp_path / "run", words)
    assert first == 2 and "holds something else" in told
    assert second == 2 and "the first process failed" in other


@pytest.mark.slow
def test_processes_that_start_from_different_bases_are_refused_in_both(base, table, tmp_path):
    """Their places may differ, so that they are no part of the configuration that is compared."""
    other = shutil.copytree(base, tmp_path / "other")
    (manifest,) = other.glob("checkpoints/*/manifest.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=3))
    tuned.configured(base, table, tmp_path / "run")  # writes its recipe
    own = tuple((f"init.from={place}",) for place in (base, other))
    for code, _, err in map(toy.finish, start_both(["finetune", tmp_path / "run.json"], own)):
        assert code == 2 and "Traceback" not in err, err
        assert "init.from, manifest: " in err and "in process 1" in err
    assert not (tmp_path / "run").exists()
