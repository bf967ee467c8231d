"""Hugging Face directories as run directories."""

import json

import numpy as np
import pytest
import tuned
from safetensors.numpy import load_file, save_file

from jaxssl import cli, exporting, finetune, importing, trained
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten

TEXTS = ["the old man sees a [MASK] near a river"]


@pytest.fixture(scope="module")
def exported(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "base"
    exporting.export(base, out)
    return out


@pytest.fixture(scope="module")
def imported(exported, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("imported") / "run", []
    importing.import_model(exported, out, say=said.append)
    return out, said


def test_it_fills_masks_as_the_run_it_was_exported_from(base, imported):
    assert trained.fill_masks(imported[0], TEXTS) == trained.fill_masks(base, TEXTS)


def test_its_parameters_have_the_bits_of_the_run_and_all_are_told(base, imported):
    out, said = imported
    before, after = tuned.whole(base), tuned.whole(out)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name]), name
    ledger = json.loads((out / "ledger.json").read_text())
    assert {entry["target"] for entry in ledger["parameters"]} == before.keys()
    for part in ("embeddings", "encoder", "masked_lm", "next_sentence", "pooler"):
        assert any(f"restored  {part}" in line for line in said), part


def test_a_run_starts_from_it(imported, table, tmp_path):
    config = tuned.configured(imported[0], table, tmp_path / "run", "train.epochs=1")
    assert "accuracy" in finetune.finetune(config, lambda text: None).validation


def test_parameters_take_the_dtype_that_is_told(exported, imported, tmp_path):
    out = importing.import_model(exported, tmp_path / "run", dtype="bfloat16", say=print)
    wide = tuned.whole(imported[0])
    for name, value in flatten(trained.open_run(out).params).items():
        assert str(value.dtype) == "bfloat16"
        np.testing.assert_allclose(np.asarray(value, np.float32), wide[name], rtol=2**-8)
    with pytest.raises(UserError, match="float32 or bfloat16"):
        importing.import_model(exported, tmp_path / "other", dtype="float16")
    assert not (tmp_path / "other").exists()


def test_tensors_that_have_no_place_are_an_error_unless_they_are_dropped(exported, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in exported.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    tensors = {**load_file(changed / "model.safetensors"), "bert.adapter": np.ones(3, np.float32)}
    save_file(tensors, changed / "model.safetensors")
    with pytest.raises(UserError, match="adapter"):
        importing.import_model(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    importing.import_model(changed, tmp_path / "run", drop=["adapter"])
    assert trained.fill_masks(tmp_path / "run", TEXTS)


def test_the_command_says_what_is_wrong(exported, imported, tmp_path, capsys):
    assert cli.main(["import", str(tmp_path / "none"), str(tmp_path / "run")]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert cli.main(["evaluate", str(imported[0])]) == 2
    assert "init.from=" in capsys.readouterr().err
    assert cli.main(["inspect", str(imported[0]), "--verify"]) == 0
    assert f"imported from {exported}" in capsys.readouterr().out
    assert cli.main(["export", str(imported[0]), str(tmp_path / "again")]) == 0
    there, here = (load_file(d / "model.safetensors") for d in (exported, tmp_path / "again"))
    assert there.keys() == here.keys()
    assert all(np.array_equal(there[name], here[name]) for name in there)
