"""What version 0.1 wrote is opened, resumed and exported, and says what it said then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy

from jaxssl import cli
from jaxssl.commands.export import export
from jaxssl.commands.predict import predict
from jaxssl.core import config as configuration
from jaxssl.report import write_report
from jaxssl.run.directory import read_identity
from jaxssl.run.open import evaluate_run
from jaxssl.run.recipes import FINETUNE, load_config, read_config
from jaxssl.run.train import train_run

OLD = Path(__file__).parent / "old"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of all of it, worked in: its paths are relative."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


EVALUATED = [
    ("bert", []),
    ("classifier", ["init.from=bert"]),
    ("imported", ["data.table.path=train.csv"]),
]


@pytest.mark.parametrize(("run", "layers"), EVALUATED, ids=[run for run, _ in EVALUATED])
def test_it_is_evaluated_as_it_was(run, layers, old):
    values = evaluate_run(run, layers=layers)
    for name, value in EXPECTED["evaluated"][run].items():
        assert values[name] == pytest.approx(value, rel=1e-4), name


def test_values_that_were_never_read_beside_others_do_not_bar_it(old):
    """They are refused in a recipe now."""
    for name in ("config.yaml", "run.json"):
        path = old / "classifier" / name
        content = configuration.read_yaml(path)
        config = content.get("config", content)
        config["freezing"] |= {"preset": "full", "top": 6}
        config["freezing"]["stages"] = [{**config["freezing"], "epoch": 9.0}]
        for key in ("stages", "gradual", "cache"):
            del config["freezing"]["stages"][0][key]
        config["init"] |= {"scratch": True, "fresh_top": 1, "optimizer": "restore"}
        config["data"]["tables"] |= {
            "validation": {"name": "file", "path": "b.csv"},
            "validation_fraction": 0.3,
        }
        config["task"]["separator"] = ";"
        config["train"]["not_finite_limit"] = 3
        path.write_text(json.dumps(content))
    config = read_config(old / "classifier")
    assert config.freezing.preset == "full" and config.freezing.top == 2
    assert config.freezing.stages[0].top == 2 and config.init.scratch
    identity = read_identity(old / "classifier" / "run.json")
    assert identity["config"] == configuration.to_dict(config)


def test_it_goes_on_as_it_did(old):
    train_run(load_config(["bert.json"], ["train.steps=6"]), lambda text: None)
    rows = [row for row in toy.rows_of(old / "bert") if row["step"] > 4]
    assert len(rows) == len(EXPECTED["resumed"])
    for row, want in zip(rows, EXPECTED["resumed"]):
        assert row.keys() == want.keys()
        for name, value in want.items():
            is_number = isinstance(value, float)
            assert row[name] == (pytest.approx(value, rel=1e-4) if is_number else value), name


def test_a_run_that_is_complete_stays_so(old):
    said = []
    overrides = ["init.from=bert"]
    train_run(load_config(["classifier.json"], overrides, FINETUNE), said.append)
    assert any("the run is complete at step 8" in line for line in said)


def test_it_predicts_what_it_did(old):
    predict("classifier", "train.csv", "out.jsonl", layers=["init.from=bert"])
    rows = [json.loads(line) for line in (old / "out.jsonl").read_text().splitlines()]
    got = [row["probabilities"]["animal"] for row in rows[:8]]
    np.testing.assert_allclose(got, EXPECTED["predicted"], rtol=1e-4)


def test_it_is_exported_to_the_bytes_that_it_was(old):
    export("classifier", "again", layers=["init.from=bert"], say=lambda text: None)
    names = ("model.safetensors", "config.json", "tokenizer.json")
    for name in names:
        assert (old / "again" / name).read_bytes() == (old / "exported" / name).read_bytes(), name


def test_it_is_trained_from(old):
    overrides = ["init.from=imported", "out=new", "train.epochs=1", "optimizer.learning_rate=0.01"]
    config = load_config(["classifier.json"], overrides, FINETUNE)
    assert train_run(config, lambda text: None).step == 4


@pytest.mark.parametrize("run", ["bert", "classifier", "imported"])
def test_it_is_inspected_and_reported(run, old, capsys):
    assert cli.main(["inspect", run, "--verify"]) == 0
    assert "every file that has a checksum matches it" in capsys.readouterr().out
    page = write_report(old / run).read_text()
    assert ("masked LM" in page) == (run == "bert")
    assert ("majority baseline" in page) == (run == "classifier")


def test_the_words_of_its_recipes_are_read(old):
    config = read_config(old / "classifier")
    assert config.objective is not None and config.objective.name == "classify"
    assert config.data is not None and config.data.name == "tables"
    assert read_config(old / "imported").imported.source == "exported"  # type: ignore[union-attr]
