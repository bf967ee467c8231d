"""The training loop: what it writes, when it stops, and what it does when a step goes wrong."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.core.config import to_dict
from jaxssl.core.errors import UserError
from jaxssl.data.loader import StoreData, open_rows
from jaxssl.generate.settings import Sampling
from jaxssl.optim.adamw import AdamW
from jaxssl.program.phase import Phases
from jaxssl.program.step import make_eval_step
from jaxssl.report.record import read_run
from jaxssl.run.build import build
from jaxssl.run.directory import RunLock, open_run_directory
from jaxssl.run.open import evaluate_run, generate_texts, open_run
from jaxssl.run.recipes import load_config, read_config
from jaxssl.run.train import train_run
from jaxssl.train.evaluation import DataPass, evaluate
from jaxssl.train.loop import fit
from jaxssl.train.stopping import NotFinite


def contents(directory):
    return {
        path: path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("report.html", "summary.json", "run.json")
    }


@pytest.fixture(scope="module")
def ordinary(byte_store, tmp_path_factory):
    """A run of 20 steps with everything on; its configuration and what it said."""
    out = tmp_path_factory.mktemp("ordinary") / "run"
    config = toy.configured(
        byte_store,
        out,
        "gpt2",
        'samples.prompts=["the cat", ""]',
        "samples.sampling.max_new_tokens=8",
        "logging.tensorboard=true",
        "profile.start=12",
        "profile.stop=14",
    )
    said = []
    outcome = train_run(config, said.append)
    assert (outcome.step, outcome.stopped_by) == (20, None)
    return config, said


def test_rows_of_training(ordinary):
    config, _ = ordinary
    lines = (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert [row["tokens"] for row in rows] == [step * 8 * 16 for step in (5, 10, 15, 20)]
    for row in rows:
        assert set(row) == {
            *("kind", "step", "tokens", "loss", "loss/causal_lm", "accuracy/causal_lm"),
            *("learning_rate", "grad_norm", "tokens_per_second", "step_seconds"),
        }
        assert row["loss"] == pytest.approx(row["loss/causal_lm"])
        assert row["tokens_per_second"] * row["step_seconds"] == pytest.approx(8 * 16)
    # Warmed up over 5 steps to 0.003, then straight to 0 after step 20; step n is the n-th update.
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([0.003, 0.003 * 11 / 15, 0.003 * 6 / 15, 0.003 / 15], rel=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_rows_of_validation_and_samples(ordinary):
    config, _ = ordinary
    rows = toy.rows_of(Path(config.out), "validation")
    assert [row["step"] for row in rows] == [10, 20]
    for row in rows:
        assert row["perplexity"] == pytest.approx(np.exp(row["loss/causal_lm"]))
        store = json.loads((Path(config.data.store) / "manifest.json").read_text())
        split = store["splits"]["validation"]
        ratio = (split["tokens"] - split["documents"]) / split["bytes"]
        assert row["bits_per_byte"] == pytest.approx(row["loss/causal_lm"] * ratio / np.log(2))
    samples = toy.rows_of(Path(config.out), "sample")
    assert [(row["step"], row["prompt"]) for row in samples] == [
        (10, "the cat"),
        (10, ""),
        (20, "the cat"),
        (20, ""),
    ]
    assert all(isinstance(row["text"], str) for row in samples)


def test_the_run_directory_holds_what_it_should(ordinary):
    config, said = ordinary
    out = Path(config.out)
    assert read_config(out) == config
    assert json.loads((out / "run.json").read_text())["config"] == json.loads(
        json.dumps(to_dict(config))
    )
    assert json.loads((out / "environment.json").read_text())["devices"].startswith("8 ")
    assert (out / "report.html").stat().st_size > 1000
    assert list(out.glob("events.*"))
    assert list((out / "profile").rglob("*.xplane.pb")), "the profile window wrote no trace"
    assert any("compute float32 (matrix products: highest)" in line for line in said)
    store = json.loads((Path(config.data.store) / "manifest.json").read_text())
    rows, tokens = divmod(store["splits"]["train"]["tokens"], 16)
    left_over = f"({rows % 8} rows and {tokens} tokens left over)"
    assert tokens and any(left_over in line for line in said), said
    steps = CheckpointManager(out / "checkpoints").steps()
    assert steps == [15, 20]


def test_a_complete_run_started_again_does_nothing(ordinary):
    config, _ = ordinary
    before = contents(Path(config.out))
    said = []
    outcome = train_run(config, said.append)
    assert "the run is complete at step 20; nothing to do" in said
    after = contents(Path(config.out))
    assert {path: after[path] for path in before} == before
    last = toy.rows_of(Path(config.out), "validation")[-1]
    assert outcome.validation == {k: v for k, v in last.items() if k not in ("kind", "step")}


def test_a_damaged_summary_is_written_anew_and_the_time_does_not_grow(ordinary):
    config, _ = ordinary
    out = Path(config.out)
    summary, spent = (out / "summary.json").read_bytes(), read_run(out).seconds
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step_seconds"] for row in rows if row["kind"] == "train"]
    assert spent == pytest.approx(5 * sum(steps))  # a row every five steps
    for content in (b"{", b"[]"):
        (out / "summary.json").write_bytes(content)
        train_run(config, lambda text: None)
        assert (out / "summary.json").read_bytes() == summary
        assert read_run(out).seconds == spent


def test_resumed_on_another_mesh_the_run_goes_on_as_it_would_have(ordinary, tmp_path):
    """Masks, order and dropout do not depend on the mesh: only the order of sums does."""
    config, _ = ordinary
    out = tmp_path / "run"
    shutil.copytree(config.out, out)
    shutil.rmtree(out / "checkpoints" / "20")
    changed = toy.configured(
        config.data.store and Path(config.data.store),
        out,
        "gpt2",
        *("mesh.data=1", "mesh.fsdp=4", "mesh.tensor=2"),
    )
    said = []
    train_run(changed, said.append)
    assert "resuming at step 15" in said
    rows, wanted = (toy.rows_of(path, "train") for path in (out, Path(config.out)))
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    for key in ("loss", "grad_norm", "learning_rate"):
        assert rows[-1][key] == pytest.approx(wanted[-1][key], rel=1e-5)
    got, want = toy.restored(out, 20), toy.restored(Path(config.out), 20)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name)
    model = open_run(out, "last")
    kernel = model.params["decoder"]["layers"]["attention"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 8 == kernel.size, "restored as it was trained"
    values = evaluate_run(out, step="last")
    assert values["loss"] == pytest.approx(toy.rows_of(out, "validation")[-1]["loss"], rel=1e-5)
    one = generate_texts(out, ["the cat"], Sampling(max_new_tokens=4, temperature=0.0))
    replicated = generate_texts(
        config.out, ["the cat"], Sampling(max_new_tokens=4, temperature=0.0)
    )
    assert one == replicated


def test_a_run_directory_is_one_runs_at_a_time(words, tmp_path):
    config = toy.configured(words, tmp_path / "run", "masked")
    with RunLock(config.out):
        with pytest.raises(
            UserError, match=f"(?s)another run is training.*process {os.getpid()} on"
        ):
            train_run(config, lambda text: None)
    with RunLock(config.out):
        pass


@pytest.mark.slow
def test_a_start_that_saved_nothing_does_not_bind_the_next(words, tmp_path):
    out, warmup = tmp_path / "run", "optimizer.schedule.warmup=1"
    config = toy.configured(words, out, "masked", "train.steps=2", warmup)
    other = dataclasses.replace(config, optimizer=AdamW(learning_rate=7.0))
    open_run_directory(other, build(config).work.feeds.tokenizer, "")
    said = []
    assert train_run(config, said.append).step == 2
    longer = toy.configured(words, out, "masked", "train.steps=3", warmup)
    assert train_run(longer, said.append).step == 3
    assert "changed since the run was started: train.steps: 2 -> 3" in said


def test_the_tokenizer_of_a_start_that_saved_nothing_does_not_stay(words, tmp_path):
    config = toy.configured(words, tmp_path / "run", "masked")
    tokenizer = build(config).work.feeds.tokenizer
    open_run_directory(config, tokenizer, "")
    wanted = {path.name for path in (tmp_path / "run" / "tokenizer").iterdir()}
    (tmp_path / "run" / "tokenizer" / "spiece.model").touch()
    open_run_directory(config, tokenizer, "")
    assert {path.name for path in (tmp_path / "run" / "tokenizer").iterdir()} == wanted


def test_a_start_that_was_killed_at_once_can_be_started_again(words, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.123.tmp").write_text("{")
    config = toy.configured(words, tmp_path / "run", "masked")
    open_run_directory(config, build(config).work.feeds.tokenizer, "")
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_schedule_in_tokens_can_be_evaluated_and_slots_may_grow_on_resume(words, tmp_path):
    overrides = ["optimizer.schedule={name: linear, unit: tokens, warmup: 256}", "train.steps=4"]
    config = toy.configured(words, tmp_path / "run", "bert", *overrides)
    train_run(config, lambda text: None)
    assert evaluate_run(config.out)["loss"] > 0
    moved = tmp_path / "elsewhere"
    shutil.copytree(config.data.store, moved)
    recipe = {**toy.recipe(words, tmp_path / "run", "bert")}
    recipe["objective"]["terms"][0]["objective"]["slots"] = 9
    layers = [recipe, {"data": {"store": str(moved)}, "model": {"remat": "full"}}]
    again = load_config(layers, overrides)
    said = []
    train_run(again, said.append)
    assert "the run is complete at step 4; nothing to do" in said


# --- Early stopping, best and last ---


def test_early_stopping_ends_the_run_for_good_and_keeps_best_and_last(byte_store, tmp_path):
    config = toy.configured(
        byte_store,
        tmp_path / "run",
        "gpt2",
        "checkpoint.every=100",
        "checkpoint.keep_last=1",
        "evaluation.every=3",
        "evaluation.early_stopping.patience=2",
        "evaluation.early_stopping.min_improvement=100",
    )
    said = []
    assert train_run(config, said.append).step == 9
    assert "early stopping at step 9" in said
    rows = toy.rows_of(tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [3, 6, 9]
    assert "early stopping" in rows[-1]["text"] and rows[-1]["step"] == 9
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "validation"}
    manager = CheckpointManager(tmp_path / "run" / "checkpoints")
    best = min(losses, key=lambda step: losses[step])
    assert manager.best() == best
    assert manager.steps() == sorted({best, 9})
    assert manager.meta(9)["selection"] == losses[9]
    before = contents(tmp_path / "run")
    assert train_run(config, said.append).step == 9
    assert contents(tmp_path / "run") == before


# --- Steps that are not finite ---


class Poisoned:
    """An objective whose loss is not a number in batches that hold one of these examples."""

    def __init__(self, inner, ids):
        self.inner, self.ids, self.seen = inner, ids, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def check_rows(self, rows):
        self.inner.check_rows(rows)
        ids = rows["example_id"][:, 1]
        self.seen.append(ids.tolist())
        rows["poison"] = np.isin(ids, self.ids)

    def sums(self, model, params, outputs, batch, key=None):
        sums = self.inner.sums(model, params, outputs, batch, key)
        factor = jnp.where(jnp.any(batch["poison"]), jnp.nan, 1.0)
        losses = {name: x * factor for name, x in sums.losses.items()}
        return sums._replace(losses=losses)


def batches_of(config, count):
    """The example ids of the first batches."""
    from jaxssl.data.loader import load

    with load(config.data) as loader:
        return [next(loader)["example_id"][:, 1].tolist() for _ in range(count)]


def fit_poisoned(byte_store, out, steps, *overrides):
    """Trains with a loss that is not a number at `steps` (counted from 1)."""
    config = toy.configured(byte_store, out, "gpt2", "evaluation.every=0", *overrides)
    batches = batches_of(config, 30)
    ids = [max(batches[step - 1]) for step in steps]
    work = build(config).work
    assert min(ids) > work.feeds.first.validation.num_rows  # never in validation
    (stream,) = work.program.streams
    objective = Poisoned(stream.objective, ids)
    stream = dataclasses.replace(stream, objective=objective)
    program = dataclasses.replace(work.program, streams=(stream,))
    with jax.set_mesh(program.mesh):
        work = dataclasses.replace(work, program=program, phases=Phases(program))
    said = []
    try:
        outcome = fit(work, out, said.append)
    except NotFinite as error:
        outcome = error
    return outcome, said, objective, batches


def test_rows_that_are_refused_end_the_run_after_it_was_saved(byte_store, tmp_path):
    """A shard that is altered while the run goes on: the steps before are not lost."""
    store, out = tmp_path / "store", tmp_path / "run"
    shutil.copytree(byte_store, store)
    config = toy.configured(store, out, "gpt2", "logging.every=1", "data.prefetch=0")
    work = build(config).work
    shard = np.memmap(store / "train" / "00000.tokens", np.uint16, "r+")
    shard[16 * batches_of(config, 9)[8][0]] = 65535  # in the ninth batch
    said = []
    with pytest.raises(UserError, match="the vocabulary does not have"):
        fit(work, out, said.append)
    assert "saved step 8 before the rows that are refused" in said
    assert CheckpointManager(out / "checkpoints").steps()[-1] == 8
    assert [row["step"] for row in toy.rows_of(out, "train")] == list(range(1, 9))


def test_skip_leaves_the_update_out_and_goes_on(byte_store, tmp_path):
    outcome, said, _, _ = fit_poisoned(byte_store, tmp_path, [8], "train.not_finite=skip")
    assert outcome.step == 20
    arrays = toy.restored(tmp_path, 20)
    assert arrays["['skipped']"] == 1 and arrays["['step']"] == 20
    assert all(np.isfinite(array).all() for array in arrays.values())
    notes = toy.rows_of(tmp_path, "note")
    assert [(row["step"], "loss nan" in row["text"]) for row in notes] == [(8, True)]
    assert any(line.startswith("step 8: not finite") for line in said)


def test_skip_ends_after_its_limit(byte_store, tmp_path):
    overrides = ("train.not_finite=skip", "train.not_finite_limit=1")
    outcome, _, _, _ = fit_poisoned(byte_store, tmp_path, [8, 12], *overrides)
    assert isinstance(outcome, NotFinite) and "step 12 was not finite" in str(outcome)


def test_abort_saves_the_last_good_parameters_and_the_run_can_go_on(byte_store, tmp_path):
    outcome, _, _, _ = fit_poisoned(byte_store, tmp_path, [7], "logging.every=2")
    assert isinstance(outcome, NotFinite) and "train.not_finite=skip" in str(outcome)
    (saved,) = [step for step in CheckpointManager(tmp_path / "checkpoints").steps() if step > 5]
    assert saved >= 8
    rows = [row["step"] for row in toy.rows_of(tmp_path, "train")]
    assert rows == list(range(2, saved + 1, 2)), "also of steps that were in flight"
    assert all(np.isfinite(array).all() for array in toy.restored(tmp_path, saved).values())
    outcome, _, _, _ = fit_poisoned(byte_store, tmp_path, [7], "train.not_finite=skip")
    assert outcome.step == 20


def test_rollback_goes_back_and_leaves_the_batches_since_out(byte_store, tmp_path):
    outcome, said, objective, batches = fit_poisoned(
        byte_store, tmp_path, [8], "train.not_finite=rollback", "logging.every=1"
    )
    assert outcome.step == 20 and "rolled back to step 5" in said
    taken = [b for b in objective.seen if b in batches]
    # Steps 6 to 20 are done with the batches after the bad one: numbers 8 to 22.
    assert taken[-15:] == batches[8:23]
    assert [row["step"] for row in toy.rows_of(tmp_path, "train")] == list(range(1, 21))
    assert toy.restored(tmp_path, 20)["['skipped']"] == 0
    notes = toy.rows_of(tmp_path, "note")
    assert [row["step"] for row in notes] == [8, 8]
    assert "went back to step 5" in notes[1]["text"]
    assert CheckpointManager(tmp_path / "checkpoints").meta(20)["data_offset"] == 3


def test_rollback_without_a_checkpoint_skips(byte_store, tmp_path):
    outcome, said, _, _ = fit_poisoned(byte_store, tmp_path, [3], "train.not_finite=rollback")
    assert outcome.step == 20
    assert "no checkpoint to go back to; going on without the update" in said


# --- Evaluation ---


@pytest.fixture(scope="module")
def bert_parts(words, tmp_path_factory):
    config = toy.configured(words, tmp_path_factory.mktemp("unused") / "run", "bert")
    program = build(config).work.program
    params = tiny.random_params(program.model)
    objective = program.streams[0].objective
    step = make_eval_step(program.model, objective, program.vocabulary, seed=0)
    return config, objective, params, jax.jit(step)


@pytest.fixture(scope="module")
def reference(bert_parts):
    """All rows in one batch, on one device: nothing is padded."""
    config, objective, params, step = bert_parts
    rows = open_rows(config.data, "validation")
    batch = rows.rows(np.arange(rows.num_rows), 0)
    sums = jax.device_get(step(params, batch))
    assert sums["weights"]["next_sentence"] == rows.num_rows
    return rows, sums


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_validation_counts_every_row_once(devices, bert_parts, reference):
    config, objective, params, step = bert_parts
    rows, sums = reference
    assert rows.num_rows % 24, "the last batch must be ragged"
    counted = []

    def counting(params, batch):
        out = step(params, batch)
        counted.append(jax.device_get(out["weights"]))
        return out

    mesh = tiny.mesh(data=devices)
    with jax.set_mesh(mesh):
        validated = DataPass(data=StoreData(rows), mesh=mesh, batch_size=24)
        values = evaluate(counting, objective, params, validated).values
    for name, weight in sums["weights"].items():
        assert sum(float(c[name]) for c in counted) == float(weight)
        loss = float(sums["losses"][name]) / float(weight)
        assert values[f"loss/{name}"] == pytest.approx(loss, rel=1e-6)
    hits, total = sums["metrics"]["masked_lm/accuracy/masked_lm"]
    assert values["accuracy/masked_lm"] == float(hits) / float(total)
