"""Marked spans and triples, from text to a trained run."""

import json
import shutil

import numpy as np
import pytest
import toy

from jaxssl import cli
from jaxssl.run.build import build
from jaxssl.run.open import evaluate_run
from jaxssl.run.recipes import load_config
from jaxssl.run.train import train_run


@pytest.fixture(scope="module")
def stores(words, tmp_path_factory):
    """A store of text with phrases marked, and one of triples, both made on the command line."""
    folder = tmp_path_factory.mktemp("knowledge")
    documents = ["".join(document) for document in toy.documents(60, seed=21)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    (folder / "names.txt").write_text("the old man\ngreen fish\nmy sister\n")
    facts = [
        f"{name} {place}\t{verb}\t{thing}\n"
        for name in toy.NAMES
        for place in toy.PLACES
        for verb in toy.VERBS
        for thing in toy.NAMES[:2]
    ]
    (folder / "facts.tsv").write_text("".join(facts))
    sources = {
        "text": ["source.name=text", "source.documents=blank_lines", "gazetteer.path=names.txt"],
        "facts": ["source.name=triples", "source.marked=true"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, source in sources.items():
            path = "text.txt" if name == "text" else "facts.tsv"
            more = ["tasks=2", "workers=1", "validation_fraction=0.2", "max_unknown_rate=0.2"]
            asked = [f"out={name}", f"tokenizer={words / 'tokenizer'}", f'source.paths=["{path}"]']
            assert cli.main(["prepare", *source, *asked, *more]) == 0
    return folder


def recipe(stores, out, **objectives):
    """Two streams by turns; the triples masked with marked spans, unless told otherwise."""
    plain = toy.recipe(stores / "text", out, "masked")
    objective, data = plain.pop("objective"), plain.pop("data")
    marked = {**objective, "units": {"name": "marked"}}
    rows = {"text": "windows", "facts": "packed"}
    streams = {
        name: {
            "objective": objectives.get(name, marked if name == "facts" else objective),
            "data": {**data, "store": str(stores / name), "rows": {"name": kind}},
        }
        for name, kind in rows.items()
    }
    plain["model"] |= {"num_layers": 1}
    more = {"train": {"steps": 6}, "checkpoint": {"every": 3, "keep_last": 9}}
    more |= {"evaluation": {"every": 0}}
    return {**plain, **more, "streams": streams, "mixture": {"name": "by_turns"}}


def test_a_run_with_marked_spans_and_triples_trains_and_ends_with_the_same_bits(stores, tmp_path):
    made = recipe(stores, tmp_path / "run")
    train_run(load_config([made], []), lambda text: None)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    shutil.rmtree(again / "checkpoints" / "6")
    train_run(load_config([{**made, "out": str(again)}], []), lambda text: None)
    toy.assert_same_arrays(toy.restored(again, 6), toy.restored(tmp_path / "run", 6))
    assert np.isfinite(evaluate_run(str(again), stream="facts")["loss"])


def test_batches_have_marks_only_where_an_objective_reads_them(stores, tmp_path):
    made = recipe(stores, tmp_path / "run")
    streams = build(load_config([made], [])).streams
    assert "marks" not in streams["text"].largest
    assert streams["facts"].largest["marks"].max() == 2
    objectives = {name: stream["objective"] for name, stream in made["streams"].items()}
    terms = [{"name": name, "objective": objective} for name, objective in objectives.items()]
    made["streams"]["text"]["objective"] = {"name": "combine", "terms": terms}
    config = load_config([made], [])
    assert config.streams["text"].objective.reads_marks


def test_the_triples_became_sentences(stores):
    manifest = json.loads((stores / "facts" / "manifest.json").read_text())
    splits = manifest["splits"].values()
    subjects = len(toy.NAMES) * len(toy.PLACES)
    assert sum(split["documents"] for split in splits) == subjects
    assert sum(split["spans"] for split in splits) == 2 * subjects * len(toy.VERBS) * 2
