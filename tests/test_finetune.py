"""Fine-tuning a small BERT that was pretrained here: what is restored, moves and is saved."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
import tuned

from jaxssl.checkpoint.manager import CheckpointManager, stored_arrays
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run, open_run
from jaxssl.run.recipes import FINETUNE, load_config
from jaxssl.run.sealing import seal_run
from jaxssl.run.train import train_run
from jaxssl.train import metrics


@pytest.fixture(scope="module")
def top(base, table, tmp_path_factory):
    """Fine-tuned: the last layer and the head; what was said."""
    out, said = tmp_path_factory.mktemp("top") / "run", []
    config = tuned.configured(base, table, out, "freezing.preset=top", "freezing.top=1")
    return out, train_run(config, said.append), said


def test_frozen_parameters_are_bit_identical_and_the_others_moved(base, top):
    before, after = tuned.whole(base), tuned.whole(top[0])
    moved = {name for name in before.keys() & after.keys() if name.startswith("encoder")}
    for name in moved:
        assert np.array_equal(before[name][0], after[name][0]), f"{name}: layer 0 is frozen"
        if "/key/bias" not in name:  # a softmax does not feel it
            assert not np.array_equal(before[name][1], after[name][1]), name
    for name in before.keys() & after.keys() - moved:
        assert name.startswith("embeddings") and np.array_equal(before[name], after[name])
    assert set(after) - set(before) == {"classify/output/kernel", "classify/output/bias"}


def test_a_checkpoint_holds_what_was_trained_and_nothing_frozen(top):
    out, outcome, _ = top
    tree = stored_arrays(CheckpointManager(out / "checkpoints").path(outcome.step))
    stored = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
    frozen = [name for name in stored if "embeddings" in name or "layers[0:1]" in name]
    assert not frozen
    for part in ("['params']", "['opt_state']"):
        assert any(name.startswith(part) and "layers[1:2]" in name for name in stored)


def test_it_learns_and_evaluates_to_the_numbers_of_its_validation(top):
    out, outcome, said = top
    assert outcome.validation["accuracy"] >= 0.9
    values = evaluate_run(out, step="best")
    for name, value in outcome.validation.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name
    assert any("restored  encoder" in line for line in said)
    for part in ("masked_lm", "next_sentence", "pooler"):
        assert any(f"dropped   {part}" in line for line in said), part


def test_the_ledger_accounts_for_every_parameter(base, top):
    entries = json.loads((top[0] / "ledger.json").read_text())["parameters"]
    targets = {e["target"] for e in entries if e["target"]}
    sources = {e["source"] for e in entries if e["source"]}
    assert targets == set(tuned.whole(top[0])) and sources == set(tuned.whole(base))


def test_started_again_from_a_checkpoint_it_ends_with_the_same_bits(base, table, top, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(top[0], out)
    manager = CheckpointManager(out / "checkpoints")
    _, kept, *later = manager.steps()
    for step in later:
        shutil.rmtree(manager.path(step))
    said = []
    config = tuned.configured(base, table, out, "freezing.preset=top", "freezing.top=1")
    train_run(config, said.append)
    assert f"resuming at step {kept}" in said and manager.steps()[-1] == later[-1] > kept
    first, second = tuned.whole(top[0]), tuned.whole(out)
    for name in first:
        assert np.array_equal(first[name], second[name]), name


def test_another_base_is_refused(base, top, tmp_path):
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    path = moved / "checkpoints" / "4" / "manifest.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(UserError, match="not the base that the run was trained on"):
        open_run(top[0], layers=[f"init.from={moved}"])


def test_a_base_that_is_gone_is_asked_for_by_its_key(top, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(top[0], run_dir)
    for name in ("config.yaml", "base.json"):
        text = (run_dir / name).read_text()
        (run_dir / name).write_text(re.sub(r"[^\s\"]+/base\b", str(tmp_path / "gone"), text))
    seal_run(run_dir)
    with pytest.raises(UserError, match="not the base that the run was trained on") as raised:
        open_run(run_dir)
    assert "say where it is now: init.from=PATH (after --with" in str(raised.value.fix)
    assert "if it was deleted" in str(raised.value.fix)


def test_a_run_is_resumed_from_a_base_that_was_moved(base, table, top, tmp_path):
    """It is told by its contents, not by its place."""
    moved, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(base, moved)
    shutil.copytree(top[0], out)
    said = []
    config = tuned.configured(moved, table, out, "freezing.preset=top", "freezing.top=1")
    train_run(config, said.append)
    assert f"changed since the run was started: init.from: {str(base)!r} -> {str(moved)!r}" in said
    assert any("the run is complete" in line for line in said)


def test_a_damaged_base_is_refused(base, top, tmp_path):
    moved = tmp_path / "base"
    shutil.copytree(base, moved)
    largest = max(
        (moved / "checkpoints" / "4" / "state").rglob("*"), key=lambda f: f.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(UserError, match="checksum|altered|damaged"):
        open_run(top[0], layers=[f"init.from={moved}"])


def test_the_base_is_found_where_it_was_from_any_directory(top, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(top[0], run_dir)
    config = json.loads(json.dumps(configuration.read_yaml(run_dir / "config.yaml")))
    config["init"]["from"] = "runs/base"  # as it was given, in another directory
    (run_dir / "config.yaml").write_text(json.dumps(config))
    seal_run(run_dir)
    assert open_run(run_dir).step == open_run(top[0]).step


def test_a_base_may_be_named_relative_to_the_directory(base, top, monkeypatch):
    monkeypatch.chdir(base.parent)
    assert open_run(top[0], layers=[f"init.from={base.name}"]).step


def test_a_run_that_saved_something_starts_from_the_same_checkpoint_again(
    base, table, top, tmp_path
):
    moved, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(base, moved)
    shutil.copytree(top[0], out)
    config = tuned.configured(moved, table, out, "init.step=last")
    shutil.copytree(moved / "checkpoints" / "4", moved / "checkpoints" / "8")
    assert build(config).work.program.start.base["step"] == 4
    another = dataclasses.replace(config, out=str(tmp_path / "another"))
    assert build(another).work.program.start.base["step"] == 8
    manifest = moved / "checkpoints" / "4" / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(UserError, match="not the base that the run was trained on"):
        build(config)


def test_a_deeper_model_is_refused_with_every_parameter(base, table, tmp_path):
    config = tuned.configured(base, table, tmp_path / "run", "model.num_layers=3")
    with pytest.raises(Exception, match="another number of layers") as raised:
        build(config)
    assert "[2, 16, 2, 8]" in str(raised.value) and "[3, 16, 2, 8]" in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.label=lable"], r"(?s)task.label.*did you mean 'label'"),
        (["freezing.train=[nothing/**]"], "matches no parameter"),
        (["freezing.freeze=['**']"], "everything is frozen"),
        (["freezing.preset=top", "freezing.top=7"], "not so many layers"),
        (["task.labels=[animal, person, plant]"], "without an example: .'plant'"),
        (["evaluation.split=dev"], "no such split to validate on"),
        (["evaluation.best_by=macro_f2"], r"(?s)no such score.*did you mean 'macro_f1'"),
        (["init.drop=[nothing]"], "a rule matches no parameter"),
        (["init.fresh=[embeddings/**]", "freezing.preset=full"], None),
    ],
)
def test_mistakes_are_told_before_anything_is_written(base, table, tmp_path, overrides, message):
    config = tuned.configured(base, table, tmp_path / "run", *overrides)
    if message is None:
        assert build(config).work.program.start.entries
        return
    with pytest.raises(UserError, match=message):
        build(config)
    assert not (tmp_path / "run").exists()


def test_rows_that_cannot_be_used_are_told_with_their_place(base, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("text,label\na dog,animal\n  ,person\n")
    with pytest.raises(UserError, match=r"(?s)a text is empty.*bad.csv:3"):
        build(
            tuned.configured(
                base,
                path,
                tmp_path / "a",
                "evaluation.split=null",
                "data.tables.validation_fraction=0",
            )
        )
    path.write_text("text,label\na dog,animal\na cat,animal\n")
    with pytest.raises(UserError, match="nothing to tell apart"):
        build(
            tuned.configured(
                base,
                path,
                tmp_path / "a",
                "evaluation.split=null",
                "data.tables.validation_fraction=0",
            )
        )


def test_scores_do_not_depend_on_the_number_of_devices(top):
    values = [
        evaluate_run(top[0], step="last", layers=[f"mesh.data={n}", f"mesh.fsdp={8 // n}"])
        for n in (1, 8)
    ]
    assert jax.device_count() == 8
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.slow
def test_a_number_is_learnt_of_pairs_of_texts(base, tmp_path, monkeypatch):
    """The label is how often both texts have the cat. The chip's peak is known, as on a GPU."""
    monkeypatch.setattr(metrics, "peak_flops", lambda: 1e12)
    rng, lines = np.random.default_rng(1), ["a,b,likeness"]
    for _ in range(120):
        words = [rng.choice(["the cat", "my sister"]) for _ in range(2)]
        lines.append(f"{words[0]} sees a dog,{words[1]} at home,{words.count('the cat') / 2}")
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    task = "task={name: regress, text: a, pair: b, label: likeness, pooling: mean, clip: [0, 1]}"
    config = tuned.configured(base, path, tmp_path / "run", task, "evaluation.best_by=spearman")
    outcome = train_run(config, lambda text: None)
    assert outcome.validation["pearson"] > 0.9
    assert outcome.validation["loss"] == pytest.approx(outcome.validation["mse/regress"], rel=1e-5)
    assert evaluate_run(config.out)["pearson"] > 0.9
    rows = toy.rows_of(Path(config.out), "train")
    assert rows and all(0 < row["mfu"] < 1 for row in rows)


RECIPES = sorted(
    path.stem for path in (Path(__file__).parent.parent / "configs" / "finetune").glob("*.yaml")
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads_over_the_model_of_a_base(recipe, base):
    config = load_config([f"finetune/{recipe}"], [f"init.from={base}"], FINETUNE)
    assert config.model == load_config([base / "config.yaml"]).model
    assert config.train.epochs and config.evaluation.every_epochs
    text = (Path(__file__).parent.parent / "configs" / "finetune" / f"{recipe}.yaml").read_text()
    header = [line.split(":")[0] for line in text.splitlines() if line.startswith("#")]
    assert header[1:] == ["# source", "# cost", "# expected", "# command"]
