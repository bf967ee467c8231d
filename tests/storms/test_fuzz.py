"""Files of JSON with any other content are read, or refused in words: never a traceback."""

import copy
import json
import random
import shutil
import struct

import numpy as np
import pytest
import tuned

from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.commands import export
from jaxssl.commands.mistakes import mistakes_of
from jaxssl.core.seal import SEAL
from jaxssl.data.store import packing
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.report import write_report
from jaxssl.run.open import open_run
from jaxssl.run.train import train_run

pytestmark = pytest.mark.slow
ODD = (None, True, -1, 0, 1.5, 1e400, 10**30, "", "x", "../x", "a" * 99, [], {}, [[]], {"a": 1})
ROUNDS = 150


def mutated(content, rng):
    """The content with one value that is another, is gone, has another name, or is there twice."""
    content = copy.deepcopy(content)
    places, todo = [], [content]
    while todo:
        node = todo.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node))
        places += [(node, key) for key in keys]
        todo += [node[key] for key in keys if isinstance(node[key], dict | list)]
    node, key = rng.choice(places)
    act = rng.randrange(4 if isinstance(node, dict) else 3)
    if act == 0:
        node[key] = rng.choice(ODD)
    elif act == 1:
        del node[key]
    elif act == 2:
        node[key] = [node[key]] if rng.randrange(2) else {"x": node[key]}
    else:
        node[rng.choice(("name", "x", ""))] = node.pop(key)
    return content


def storm(path, look, rounds=ROUNDS):
    """`look` with mutations of a JSON file, and with broken bytes of it; how many were refused."""
    whole, rng, refused = path.read_bytes(), random.Random(path.name), 0
    content = json.loads(whole)
    try:
        for number in range(rounds):
            if number % 5:
                path.write_text(json.dumps(mutated(content, rng)))
            else:
                cut = bytearray(whole)
                place = rng.randrange(len(cut))
                cut[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
                path.write_bytes(cut)
            refused += was_refused(look, path)
    finally:
        path.write_bytes(whole)
    look()
    return refused


def was_refused(look, path) -> bool:
    try:
        look()
    except BaseException as error:
        told = path.read_bytes()[:2000]
        assert isinstance(error, Exception) and mistakes_of(error), f"{error!r} of {told!r}"
        return True
    return False


@pytest.fixture(scope="module")
def run_dir(base, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    changes = ("freezing.preset=top", "freezing.top=1", "train.epochs=1", "checkpoint.every=99")
    train_run(tuned.configured(base, table, folder / "run", *changes), lambda text: None)
    (folder / "run" / SEAL).unlink()  # as of version 0.1: only the readers are left
    return folder / "run"


@pytest.mark.parametrize("name", ["run.json", "base.json"])
def test_files_of_a_run(run_dir, name):
    from jaxssl.checkpoint.parameter_index import read_base
    from jaxssl.run.directory import read_identity

    read = {"run.json": read_identity, "base.json": lambda path: read_base(path.parent)}[name]
    assert storm(run_dir / name, lambda: read(run_dir / name)) > 20


@pytest.mark.parametrize("name", ["meta.json", "manifest.json"])
def test_files_of_a_checkpoint(run_dir, name):
    step = max((run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert storm(step / name, lambda: open_run(run_dir, "last"), rounds=40) > 20


@pytest.mark.parametrize(
    "name", ["scores.json", "receipt.json", "ledger.json", "summary.json", "environment.json"]
)
def test_what_a_report_shows(run_dir, name, tmp_path):
    storm(run_dir / name, lambda: write_report(run_dir, tmp_path / "x.html"))


def test_metrics(run_dir, tmp_path):
    path = run_dir / "metrics.jsonl"
    whole, rng = path.read_text(), random.Random(0)
    rows = [json.loads(line) for line in whole.splitlines()]
    rows.append({"kind": "sample", "step": 1, "prompt": "a", "text": "ab"})
    mask = [[{"token": "x", "probability": 0.5}]]
    rows.append({"kind": "fill_mask", "step": 1, "text": "a", "predictions": mask})
    for _ in range(ROUNDS):
        path.write_text("".join(json.dumps(row) + "\n" for row in mutated(rows, rng) if row))
        was_refused(lambda: write_report(run_dir, tmp_path / "x.html"), path)
    path.write_text(whole)


def test_a_stores_manifest_and_plan(words, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(words, store)
    packing.write_pack_plan(TokenStore.open(store).split("train"), 16)

    def look():
        rows = packing.PackedRows(TokenStore.open(store, verify=None).split("train"), 16)
        rows.rows(np.arange(rows.num_rows), 0)

    assert storm(store / "manifest.json", look) > 60
    assert storm(store / "train" / "pack-16.json", look) > 60


@pytest.fixture(scope="module")
def hf(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("fuzz") / "hf"
    export.export(base, out)
    return out


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_files_of_a_hugging_face_directory(hf, name):
    def look():
        load_tokenizer(hf) if "tokenizer" in name else open_model(hf)

    storm(hf / name, look)


def test_headers_of_safetensors(hf):
    path = hf / "model.safetensors"
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    (size,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + size]), whole[8 + size :]
    for _ in range(ROUNDS):
        text = json.dumps(mutated(header, rng)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        refused += was_refused(lambda: open_model(hf), path)
    path.write_bytes(whole)
    assert refused > 60


def test_the_helper_finds_every_place():
    rng = random.Random(0)
    found = {json.dumps(mutated({"a": [1], "b": {"c": 2}}, rng)) for _ in range(500)}
    assert len(found) > 50
