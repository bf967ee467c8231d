"""Seeds of one recipe and recipes against each other, on the same examples."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tuned

from jaxssl.commands import compare
from jaxssl.commands.compare import Difference, SeedResult
from jaxssl.core.errors import UserError
from jaxssl.run.train import train_run
from jaxssl.tasks.answer import windows as answer_windows
from jaxssl.tasks.answer.questions import Question
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.tag import windows as tag_windows
from jaxssl.tasks.tag.task import Tag

HEAD = ("freezing.preset=head", "train.epochs=2", "evaluation.every_epochs=2")


@pytest.fixture(scope="module")
def seeds(base, table, tmp_path_factory):
    """Two seeds of a linear probe; what was said."""
    out, said = tmp_path_factory.mktemp("seeds") / "probe", []
    config = tuned.configured(base, table, out, *HEAD)
    return out, compare.run_seeds(config, 2, said.append), said


@pytest.fixture(scope="module")
def scratch(base, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("scratch") / "scratch"
    changes = (*HEAD, "init.scratch=true")
    train_run(tuned.configured(base, table, out, *changes), lambda text: None)
    return out


def test_each_seed_is_a_run_of_its_own_over_the_same_split(seeds):
    out, results, _ = seeds
    assert [result.seed for result in results] == [0, 1]
    runs = [json.loads((out / f"seed-{n}" / "run.json").read_text()) for n in (0, 1)]
    assert runs[0]["data"] == runs[1]["data"]
    first, second = (tuned.whole(out / f"seed-{n}") for n in (0, 1))
    assert not np.array_equal(first["classify/output/kernel"], second["classify/output/kernel"])
    kept = json.loads((out / "seeds.json").read_text())
    for result, row in zip(results, kept["runs"]):
        scores = json.loads((out / row["run"] / "scores.json").read_text())
        assert result.score == scores["splits"]["validation"]["scores"][kept["metric"]]


def test_the_table_of_seeds_has_mean_deviation_and_collapsed_runs():
    results = [
        SeedResult(0, "seed-0", 0.9, 0.5),
        SeedResult(1, "seed-1", 0.8, 0.5),
        SeedResult(2, "seed-2", 0.5, 0.5),
        SeedResult(3, "seed-3", None, 0.0),
    ]
    text = "\n".join(compare.seeds_table(results, "accuracy"))
    assert f"mean {np.mean([0.9, 0.8, 0.5]):.4f}" in text
    assert f"deviation {np.std([0.9, 0.8, 0.5], ddof=1):.4f}" in text
    assert "2 of 4 runs collapsed" in text and text.count("collapsed") == 3


def test_runs_are_compared_on_the_same_examples(seeds, scratch):
    out, results, _ = seeds
    groups, differences = compare.compare([out, scratch], samples=200)
    assert [group.name for group in groups] == ["probe", "scratch"]
    assert groups[0].scores == pytest.approx([result.score for result in results])
    assert not groups[0].is_fresh and groups[1].is_fresh
    (difference,) = differences
    assert difference.is_transfer and difference.group == "probe"
    assert difference.difference == pytest.approx(groups[0].scores.mean() - groups[1].scores[0])
    assert difference.low <= difference.difference <= difference.high
    text = "\n".join(compare.comparison_table(groups, differences))
    assert "18 examples" in text and "from scratch" in text and "2 seeds" in text


def test_a_run_compared_with_itself_shows_no_difference(scratch):
    _, (difference,) = compare.compare([scratch, scratch], samples=50)
    assert (difference.difference, difference.low, difference.high) == (0, 0, 0)
    assert difference.verdict == "no difference shown"


def test_a_transferred_model_that_is_worse_is_called_negative_transfer():
    worse = Difference("tuned", "scratch", -0.1, -0.15, -0.05, True)
    assert worse.verdict == "WORSE: negative transfer"
    assert dataclasses.replace(worse, is_transfer=False).verdict == "WORSE"
    better = Difference("tuned", "scratch", 0.1, 0.05, 0.15, True)
    assert better.verdict == "better: transfer helps"
    assert Difference("a", "b", 0.1, -0.05, 0.15, True).verdict == "no difference shown"


def test_what_cannot_be_compared_is_refused(seeds, scratch, base, table, tmp_path):
    with pytest.raises(UserError, match="nothing to compare with"):
        compare.compare([scratch])
    with pytest.raises(UserError, match="was not fine-tuned here"):
        compare.compare([scratch, base])
    with pytest.raises(UserError, match="at least 2"):
        compare.run_seeds(tuned.configured(base, table, tmp_path / "x", *HEAD), 1)
    task = Classify(labels=("a", "b"))
    group = lambda refs: compare.Group("g", task, False, (0,), np.ones((1, 3, 2)), np.array(refs))
    with pytest.raises(UserError, match="not evaluated on the same examples"):
        compare._check_same(group([0, 1, 1]), group([0, 1, 0]), "validation")
    assert Path(seeds[0]).is_dir()


def test_a_run_whose_score_or_baseline_is_not_a_number_has_collapsed_or_is_scored():
    nan = float("nan")
    assert SeedResult(0, "seed-0", nan, 0.0).is_collapsed  # it says the same of every row
    assert not SeedResult(0, "seed-0", 0.3, 0.0).is_collapsed


def test_sentences_and_questions_are_the_same_whatever_the_tokenizer():
    words, tags = ["Bill", "founded", "it"], ["B", "O", "O"]
    index = np.arange(3)
    one = [tag_windows.Window(0, 1, words, tags, index, index)]
    two = [
        tag_windows.Window(0, 2, words, tags, index[:2], index[:2] * 2),
        tag_windows.Window(0, 2, words, tags, index[2:], index[2:] * 2),
    ]
    other = [tag_windows.Window(0, 1, words, ["O", "O", "O"], index, index)]
    assert Tag().identity(one) == Tag().identity(two) != Tag().identity(other)

    def asked(text, spans):
        question = Question("q1", text, "a b c", (), "row 1")
        return [answer_windows.Window(question, spans, 1, 0, 0, None)]

    spans = np.array([[0, 1], [2, 3]])
    same = Answer().identity
    assert (
        same(asked("what?", spans)) == same(asked("what?", spans[:1])) != same(asked("why?", spans))
    )


def test_seeds_that_both_have_stay_paired_and_those_without_a_score_are_told():
    def group(name, seeds, without=()):
        tallies = np.arange(len(seeds) * 6.0).reshape(len(seeds), 3, 2) + seeds[0]
        task = Classify(labels=("a", "b"))
        return compare.Group(name, task, False, seeds, tallies, np.zeros(3), without)

    one, other = group("one", (0, 1, 2)), group("other", (0, 2), (1,))
    ours, theirs, paired = compare.paired_runs(one, other)
    assert paired and np.array_equal(ours, one.tallies[[0, 2]])
    assert np.array_equal(theirs, other.tallies)
    all_of_one, single, paired = compare.paired_runs(one, group("third", (0,)))
    assert not paired and len(all_of_one) == 3 and len(single) == 1
    lines = compare.comparison_table([one, other], [])
    assert "seeds without a score: 1" in lines[2] and "without a score" not in lines[1]
