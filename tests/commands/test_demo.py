"""The demo's own parts: what is pretrained on, and the table of few labels."""

import json

import pytest

from jaxssl.commands.demo import BAG, SHORT, WAYS, library_table, without_tested
from jaxssl.data.corpus.sources import Jsonl


@pytest.fixture
def corpus(tmp_path):
    """Modules of three packages, as the docstrings of an environment are written."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [
        {
            "id": f"{package}/module{i}.py",
            "package": package,
            "group": package,
            "text": f"What {package} does in its module {i} is told here. " * 3,
        }
        for package in ("numpy", "scipy", "jax")
        for i in range(60)
    ]
    path = folder / "docstrings.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_module_that_is_tested_on_is_pretrained_on(corpus, tmp_path):
    source = Jsonl(paths=(str(corpus),), id_key="id", group_key="group")
    rest = without_tested(tmp_path, source, SHORT)
    (path,) = (tmp_path / "corpus" / "pretraining.jsonl",)
    assert rest.paths == (str(path),) and rest.id_key == "id"
    read = {row["id"] for row in rows_of(path)}
    tested = {row["module"] for row in rows_of(tmp_path / "libraries" / "test.jsonl")}
    trained = {row["module"] for row in rows_of(tmp_path / "libraries" / "train.jsonl")}
    assert tested and not read & tested
    assert trained <= read
    everything = {row["id"] for row in rows_of(corpus)}
    assert len(read) > 0.6 * len(everything)


def found(**scores):
    """Three draws of 16 labels, and all labels once, by way."""
    spread = (-0.01, 0.0, 0.01)
    few = {(way, 16): [score + d for d in spread] for way, (score, _) in scores.items()}
    return few | {(way, None): [score] for way, (_, score) in scores.items()}


def test_the_table_has_means_and_deviations_and_says_who_wins():
    scores = {"head": (0.6, 0.7), "full": (0.5, 0.72), "scratch": (0.4, 0.6), BAG: (0.45, 0.75)}
    assert {*WAYS, BAG} == {*scores}
    lines = library_table(found(**scores), (16, None), "runs")
    table = {line[:14].strip(): line.split() for line in lines[2:6]}
    assert table["head"][1:] == ["0.600", "±", "0.010", "0.700"]
    assert table[BAG][-4:] == ["0.450", "±", "0.010", "0.750"]
    (beaten,) = [line for line in lines if "wins" in line]
    assert beaten.startswith("Of all labels, bag of words wins")


def test_a_pretrained_model_that_wins_everywhere_needs_no_word():
    scores = {"head": (0.6, 0.7), "full": (0.5, 0.8), "scratch": (0.4, 0.6), BAG: (0.45, 0.75)}
    assert not any("wins" in line for line in library_table(found(**scores), (16, None), "runs"))
