"""What is given as a model and is none: each is told what it is, with the path to give."""

import json
import re
from pathlib import Path

import pytest

from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.checkpoint.origin import open_origin
from jaxssl.core.errors import UserError
from jaxssl.run.recipes import base_model


def made(path, *files):
    for name in files:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return path


def adapter(path):
    made(path, "adapter_model.safetensors", "config.json")  # with a configuration it is one, too
    given = {"base_model_name_or_path": "org/base", "peft_type": "LORA"}
    (path / "adapter_config.json").write_text(json.dumps(given))
    return path, "an adapter (LORA) of org/base", "jaxssl import"


def hub_cache(path):
    root = path / "models--org--name"
    made(root, "snapshots/aaa/config.json", "snapshots/bbb/config.json")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("aaa\n")
    return root, "in the hub's cache", str(root / "snapshots" / "aaa")


def whole_cache(path):
    hub_cache(path)
    return path, "models--org--name", str(path / "models--org--name" / "snapshots" / "aaa")


def snapshots(path):
    place = made(path / "snapshots", "ccc/config.json")
    return place, "in the hub's cache", str(place / "ccc")


def trainer(path):
    made(path, "checkpoint-500/config.json", "checkpoint-1500/config.json", "runs/x")
    state = {"best_model_checkpoint": "/elsewhere/out/checkpoint-500"}
    (path / "checkpoint-1500" / "trainer_state.json").write_text(json.dumps(state))
    last, best = path / "checkpoint-1500", path / "checkpoint-500"
    fix = f"last one is {last}, the best one, as its trainer_state.json says, {best}"
    return path, "a Trainer's output, with 2", fix


def file(path):
    made(path, "model.safetensors")
    return path / "model.safetensors", "a file", f"give its directory: {path}"


def models(path):
    made(path, "a/config.json", "b/config.yaml")
    return path, "a directory with others inside", f"{path / 'a'}, {path / 'b'}"


def mistyped(path):
    made(path, "runs/base/nothing")
    return path / "runs" / "bsae", "o", f"did you mean '{path / 'runs' / 'base'}'"


def mistyped_above(path):
    made(path, "downloads/base/nothing")
    return path / "downlods" / "base", "o", f"did you mean '{path / 'downloads' / 'base'}'"


KINDS = (adapter, hub_cache, whole_cache, snapshots, trainer, file, models)


@pytest.mark.parametrize("kind", [*KINDS, mistyped, mistyped_above])
def test_what_is_no_model_is_told_with_what_to_give_instead(kind, tmp_path):
    path, what, fix = kind(tmp_path)
    with pytest.raises(UserError, match=f"(?s){re.escape(what)}.*{re.escape(fix)}"):
        open_model(path)
    with pytest.raises(UserError, match=f"(?s){re.escape(what)}.*{re.escape(fix)}"):
        origin = open_origin(path)
        origin.model()  # an adapter with a configuration looks like a model until it is opened


def test_a_run_needs_no_import(tmp_path):
    with pytest.raises(UserError, match="(?s)a run directory.*run already"):
        open_model(made(tmp_path, "config.yaml"))


def test_a_name_of_the_hub_is_sent_to_import(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="jaxssl import org/model NEW_DIRECTORY"):
        open_origin(Path("org/model"))


@pytest.mark.parametrize(
    "name", ["bert-tiny", "pretrain/bert-tiny", "configs/pretrain/bert-tiny.yaml"]
)
def test_a_recipe_is_no_run_to_start_from(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="jaxssl pretrain pretrain/bert-tiny out=RUN"):
        base_model({"init": {"from": name}})
