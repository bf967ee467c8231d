"""Hard negatives: by brute force, and from a file of pairs to a file of triplets."""

import json

import numpy as np
import pytest

from jaxssl import cli
from jaxssl.commands import mine
from jaxssl.commands.mine import Choice, hardest
from jaxssl.core.errors import UserError


def brute_force(queries, candidates, texts, answers, names, choice):
    found = {}
    for row, text in enumerate(texts):
        scores = [float(queries[row] @ candidate) for candidate in candidates]
        own = {names.index(a) for t, a in zip(texts, answers) if t == text}
        own |= {names.index(text)} if text in names else set()
        limit = scores[names.index(answers[row])] - choice.margin
        order = sorted(range(len(names)), key=lambda i: -scores[i])
        order = [i for i in order if i not in own][: choice.depth][choice.skip :]
        kept = [i for i in order if scores[i] <= limit][: choice.count]
        if len(kept) == choice.count:
            found[row] = kept
    return found


@pytest.mark.parametrize(
    "choice",
    [Choice(), Choice(count=3, margin=-0.5), Choice(skip=2, margin=-1), Choice(margin=0.2)],
)
def test_negatives_are_those_of_brute_force(choice, monkeypatch):
    monkeypatch.setattr(mine, "CHUNK", 7)
    rng = np.random.default_rng(1)
    names = [f"answer {i}" for i in range(30)] + ["text 3"]
    texts = [f"text {i}" for i in rng.integers(0, 12, 40)]
    answers = [names[i] for i in rng.integers(0, 30, 40)]
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    queries, candidates = unit(rng.normal(size=(40, 5))), unit(rng.normal(size=(31, 5)))
    given = (queries, candidates, texts, answers, names, choice)
    found = hardest(*given)
    assert found and found == brute_force(*given)


def test_texts_that_differ_in_whitespace_alone_are_one():
    """Row 1 asks what row 0 does, and row 2's text is a candidate: none is a negative of these."""
    texts, answers = ["a", " a", "b"], ["x", "y ", "z"]
    names = mine._once([*answers, " x ", "b\n", "y", "c"])
    assert names == ["x", "y ", "z", "b\n", "c"]
    vectors = np.eye(5, dtype=np.float32)
    queries = np.ones((3, 5), np.float32) / np.sqrt(5)
    given = (queries, vectors, texts, [" x", "y", "z "], names, Choice(count=2, margin=-1))
    assert hardest(*given) == {0: [2, 3], 1: [2, 3], 2: [0, 1]}


@pytest.fixture
def pairs(tmp_path):
    rows = [
        {"text": "the cat sees a dog", "pair": "a dog is seen", "id": 1},
        {"text": "the old man paints", "pair": "my sister is painted", "id": 2},
        {"text": "the cat sees a dog", "pair": "in the garden", "id": 3},
        {"text": "every bird follows", "pair": "near a river", "id": 4},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_pairs_becomes_one_of_triplets(base, pairs, tmp_path):
    out = tmp_path / "out.jsonl"
    given = ["mine", str(base), "--input", str(pairs), "--output", str(out), "--margin", "-2"]
    assert cli.main([*given, "--count", "2"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        negatives = {row["negative1"], row["negative2"]}
        assert len(negatives) == 2 and row["pair"] not in negatives
        if row["text"].startswith("the cat"):
            assert negatives == {"my sister is painted", "near a river"}
    assert cli.main(given) == 2, "the output is there"


def test_rows_without_enough_are_told_and_none_is_an_error(base, pairs, tmp_path):
    said, out = [], tmp_path / "out.jsonl"
    # Rows of two answers have two candidates left, the others three.
    choice = Choice(count=3, margin=-2)
    rows = mine.mine_file(base, [str(pairs)], str(out), choice=choice, note=said.append)
    assert rows == 2 and any("2 of 4 rows are left out" in text for text in said)
    with pytest.raises(UserError, match="enough negatives"):
        mine.mine_file(base, [str(pairs)], str(tmp_path / "x.jsonl"), choice=Choice(margin=2))
    assert not (tmp_path / "x.jsonl").exists()


def test_another_file_has_further_candidates(base, pairs, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"pair": "under the table"}) + "\n")
    out, choice = tmp_path / "out.jsonl", Choice(count=4, margin=-2)
    rows = mine.mine_file(base, [str(pairs)], str(out), corpus=[str(more)], choice=choice)
    assert rows == 2 and "under the table" in out.read_text()


def test_numbers_that_mean_nothing_are_refused(base, pairs, tmp_path, capsys):
    given = ["mine", str(base), "--input", str(pairs), "--output", str(tmp_path / "x.jsonl")]
    for more in (["--count", "0"], ["--skip", "-1"], ["--count", "9", "--depth", "8"]):
        assert cli.main([*given, *more]) == 2
        assert "error" in capsys.readouterr().err
    assert cli.main([*given, "--pair", "answer"]) == 2
    assert "answer" in capsys.readouterr().err and not (tmp_path / "x.jsonl").exists()
