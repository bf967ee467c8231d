"""Pretraining that goes on from another run: its parameters, and its moments where told."""

import json
from pathlib import Path

import numpy as np
import pytest
import toy
import tuned

from jaxssl.core.errors import UserError
from jaxssl.run.build import build
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run

BASE_STEPS = 4
STILL = (
    "train.steps=1",
    "optimizer.learning_rate=0",
    "optimizer.schedule.warmup=0",
    "evaluation.every=0",
)


def configured(words, base, out, *overrides):
    recipe = toy.recipe(words, out)
    del recipe["model"]
    path = toy.write_recipe(out.parent / f"{out.name}.json", recipe)
    return load_config([path], (f"init.from={base}", *STILL, *overrides))


def counts(run_dir, step):
    """{which count of the optimizer's state (clipping, Adam, decay, schedule): its value}."""
    return {
        "moments" if "[1]" in name else "schedule": int(value)
        for name, value in toy.restored(run_dir, step).items()
        if name.endswith("['count']") and "opt_state" in name
    }


@pytest.fixture(scope="module")
def moved_on(base, words, tmp_path_factory):
    """Runs of one step at a learning rate of 0, by how they take the optimizer's state."""
    folder, made = tmp_path_factory.mktemp("continuing"), {}
    for way in ("reset", "restore"):
        config = configured(words, base, folder / way, f"init.optimizer={way}")
        said: list[str] = []
        train_run(config, said.append)
        made[way] = folder / way, said
    return made


def test_it_begins_with_the_parameters_and_the_model_of_the_base(base, moved_on):
    for run_dir, said in moved_on.values():
        before, after = tuned.whole(base), tuned.whole(run_dir)
        toy.assert_same_arrays(after, before)
        assert any(line.startswith(f"from step {BASE_STEPS} of {base}") for line in said)
        ledger = json.loads((run_dir / "ledger.json").read_text())
        assert {entry["action"] for entry in ledger["parameters"]} == {"restored"}


def test_moments_are_reset_or_restored_as_told_and_the_schedule_begins_anew(base, moved_on):
    assert counts(base, BASE_STEPS) == {"moments": BASE_STEPS, "schedule": BASE_STEPS}
    assert counts(moved_on["reset"][0], 1) == {"moments": 1, "schedule": 1}
    assert counts(moved_on["restore"][0], 1) == {"moments": BASE_STEPS + 1, "schedule": 1}
    first = lambda path, step: {
        name: x for name, x in toy.restored(path, step).items() if "mu" in name and "kernel" in name
    }
    old, new = first(base, BASE_STEPS), first(moved_on["restore"][0], 1)
    afresh = first(moved_on["reset"][0], 1)
    assert old.keys() == new.keys() and old
    for name in old:
        # mu = 0.9 * old + 0.1 * gradient, with the same batch and parameters in both runs.
        np.testing.assert_allclose(new[name], 0.9 * old[name] + afresh[name], rtol=1e-5, atol=1e-9)


def test_a_smaller_model_starts_from_some_of_the_layers(base, words, tmp_path):
    changes = ("init.layers=[1]", "model.num_layers=1")
    config = configured(words, base, tmp_path / "run", *changes)
    train_run(config, lambda text: None)
    before, after = tuned.whole(base), tuned.whole(tmp_path / "run")
    assert before.keys() == after.keys()
    for name, value in after.items():
        expected = before[name][1:] if "/layers/" in name else before[name]
        np.testing.assert_array_equal(value, expected, name)
    assert sum("/layers/" in name for name in after) > 10


def test_a_checkpoint_is_named_by_its_path(base, words, tmp_path):
    path = base / "checkpoints" / str(BASE_STEPS)
    config = configured(words, path, tmp_path / "run")
    assert (config.init.run_dir, config.init.chosen) == (base, BASE_STEPS)
    assert build(config).work.program.start.base["step"] == BASE_STEPS
    with pytest.raises(UserError, match="two checkpoints are named"):
        configured(words, path, tmp_path / "run", "init.step=2")
    with pytest.raises(UserError, match=r"(?s)no such checkpoint.*one of 4.*3"):
        build(configured(words, base / "checkpoints" / "3", tmp_path / "run"))


def test_another_tokenizer_is_refused(base, byte_store, tmp_path):
    config = configured(byte_store, base, tmp_path / "run", "objective={name: masked_lm, slots: 8}")
    with pytest.raises(UserError, match=r"(?s)another tokenizer.*prepare the text of data.store"):
        build(config)


def test_moments_of_other_parameters_or_another_optimizer_are_refused(base, words, tmp_path):
    restore = "init.optimizer=restore"
    fresh = configured(words, base, tmp_path / "a", restore, "init.fresh_top=1")
    with pytest.raises(UserError, match=r"(?s)does not fit the parameters.*layers"):
        build(fresh)
    other = configured(words, base, tmp_path / "b", restore, "optimizer.clip_norm=null")
    with pytest.raises(UserError, match="another optimizer"):
        train_run(other, lambda text: None)
    assert not list(Path(other.out).glob("checkpoints/*/manifest.json"))


def test_other_objectives_leave_heads_behind_and_say_so(base, words, tmp_path):
    changes = ("objective={name: masked_lm, slots: 8}", "model.pooler=false")
    config = configured(words, base, tmp_path / "run", *changes)
    actions = {e.source: e.action for e in build(config).work.program.start.entries if e.source}
    assert {n.split("/")[0] for n, a in actions.items() if a == "dropped"} == {
        "next_sentence",
        "pooler",
    }
