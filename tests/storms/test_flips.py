"""A flipped bit in any file of a run, a store or an export: found, or without a consequence.

What is only shown (metrics, scores, the report) has no checksums: there a flip must not end in a
traceback. `-s` prints what became of each file's flips.
"""

import random
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
import tuned

from jaxssl import cli
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.commands import export
from jaxssl.core import config as configuration
from jaxssl.data.store import packing
from jaxssl.data.store.manifest import seal_store
from jaxssl.data.store.store import TokenStore
from jaxssl.data.tokenizer.loading import load_tokenizer
from jaxssl.run.open import open_run
from jaxssl.run.sealing import seal_run
from jaxssl.run.train import train_run

pytestmark = pytest.mark.slow
FLIPS = 6
SHOWN = ("metrics.jsonl", "scores.json", "receipt.json", "summary.json", "environment.json")
SHOWN += ("report.html", "frozen.json", ".lock", "README.md", "stacks-0.txt")


def flips(path, seed):
    """Writes the file with one other bit, `FLIPS` times, and then as it was."""
    content, rng = path.read_bytes(), random.Random(f"{path.name} {seed}")
    for _ in range(FLIPS if content else 0):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        yield
    path.write_bytes(content)


def storm(root: Path, look, capsys, shown=SHOWN) -> Counter:
    """What became of the flips in every file below `root`: `look` raises what `cli.main` tells as a
    mistake (SystemExit of another kind is none), or returns what must stay equal."""
    wanted, found = look(), Counter()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        for _ in flips(path, 0):
            name = path.relative_to(root).as_posix()
            end = tried(look, wanted)
            found[end] += 1
            with capsys.disabled():
                print(f"\n{end:<9} {name}", end="")
            assert end != "changed" or path.name in shown, name
        assert look() == wanted, f"{path} is not as it was"
    return found


def tried(look, wanted) -> str:
    from jaxssl.commands.mistakes import mistakes_of

    try:
        return "harmless" if look() == wanted else "changed"
    except Exception as error:
        assert mistakes_of(error), f"not told as a mistake: {type(error).__name__}: {error}"
        return "caught"


def everything(run_dir: Path) -> tuple:
    """What a run is opened as: configuration, parameters, tokenizer."""
    trained = open_run(run_dir, "last")
    leaves = jax.tree_util.tree_leaves_with_path(trained.params)
    params = {jax.tree_util.keystr(name): np.asarray(leaf).tobytes() for name, leaf in leaves}
    return configuration.to_yaml(trained.config), params, trained.tokenizer.fingerprint


@pytest.fixture(scope="module")
def frozen(base, table, tmp_path_factory):
    """(a run whose base is a Hugging Face directory, this directory)."""
    folder = tmp_path_factory.mktemp("flips")
    export.export(base, folder / "hf")
    changes = ("freezing.preset=top", "freezing.top=1", "train.epochs=1", "checkpoint.every=99")
    config = tuned.configured(folder / "hf", table, folder / "run", *changes)
    train_run(config, lambda text: None)
    return folder / "run", folder / "hf"


def test_a_run(frozen, capsys):
    run_dir, _ = frozen
    found = storm(run_dir, lambda: everything(run_dir), capsys)
    assert found["caught"] > 100 and not found["changed"], found


def test_what_a_run_shows(frozen, tmp_path, capsys):
    """The report is written, or says which file is damaged."""
    shutil.copytree(frozen[0], tmp_path / "run")
    for name in ("checkpoints", "tokenizer"):
        shutil.rmtree(tmp_path / "run" / name)

    def look():
        assert cli.main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "x.html")]) in (
            0,
            2,
        )
        return (tmp_path / "x.html").read_bytes()

    seal_run(tmp_path / "run")
    names = [path.name for path in (tmp_path / "run").iterdir()]
    storm(tmp_path / "run", look, capsys, shown=names)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text() + "#")
    assert b"config.yaml (other contents)" in look()


def test_an_export_that_a_run_started_from(frozen, capsys):
    run_dir, hf = frozen
    found = storm(hf, lambda: everything(run_dir), capsys)
    assert found["caught"] >= 4 * FLIPS and not found["changed"], found


def test_a_store(words, tmp_path, capsys):
    store = tmp_path / "store"
    shutil.copytree(words, store)
    seal_store(store)
    for name in ("train", "validation"):
        packing.write_pack_plan(TokenStore.open(store).split(name), 16)

    def look():
        opened = TokenStore.open(store, verify=None)
        rows = packing.PackedRows(opened.split("train"), 16)
        other = packing.PackedRows(opened.split("validation"), 16)
        read = [r.rows(np.arange(r.num_rows), 0)["tokens"].tobytes() for r in (rows, other)]
        return opened.manifest, read, load_tokenizer(store / "tokenizer").fingerprint

    found = storm(store, look, capsys)
    assert found["caught"] > 60 and not found["changed"], found


def test_a_pretrained_run(words, tmp_path, capsys):
    config = toy.configured(
        words, tmp_path / "run", "masked", "train.steps=10", "checkpoint.every=99"
    )
    train_run(config, lambda text: None)
    found = storm(tmp_path / "run", lambda: everything(tmp_path / "run"), capsys)
    assert found["caught"] > 60 and not found["changed"], found


def test_the_best_of_several_steps(words, tmp_path, capsys):
    """No flip makes another step the best."""
    changes = (
        "train.steps=6",
        "evaluation.every=2",
        "checkpoint.every=2",
        "checkpoint.keep_last=3",
    )
    train_run(toy.configured(words, tmp_path / "run", "masked", *changes), lambda text: None)
    manager = CheckpointManager(tmp_path / "run" / "checkpoints")
    assert len(manager.steps()) == 3
    found = storm(manager.directory, lambda: manager.choose("best"), capsys)
    assert found["caught"] > 40 and not found["changed"], found
