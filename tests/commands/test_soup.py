"""Soups of runs: what they are made of, and what is refused."""

import numpy as np
import pytest
import toy
import tuned

from jaxssl.commands.soup import soup
from jaxssl.core.errors import UserError
from jaxssl.run.open import evaluate_run
from jaxssl.run.train import train_run
from jaxssl.transfer.averaging import Arithmetic, Ties

QUIET = lambda text: None  # noqa: E731


@pytest.fixture(scope="module")
def runs(base, table, tmp_path_factory):
    """Two classifiers of one start, of other seeds."""
    folder = tmp_path_factory.mktemp("soup")
    made = []
    for seed in (0, 1):
        out = folder / f"run{seed}"
        settings = (f"train.seed={seed}", "train.epochs=2", "task.pooling=mean")
        train_run(tuned.configured(base, table, out, *settings), QUIET)
        made.append(out)
    return made


def test_each_parameter_is_the_mean_and_the_run_is_one_like_others(runs, tmp_path):
    said = []
    out = soup(runs, tmp_path / "soup", say=said.append)
    made, parts = tuned.whole(out), [tuned.whole(run, "best") for run in runs]
    assert made.keys() == parts[0].keys()
    for name, x in made.items():
        want = (parts[0][name] + parts[1][name]) / 2
        np.testing.assert_allclose(x, want, rtol=1e-6, atol=1e-8, err_msg=name)
    assert any(not np.array_equal(made[name], parts[0][name]) for name in made)
    assert evaluate_run(out)["rows"] == 18 and said[-1].startswith("uniform of 2")


def test_changes_are_told_from_what_both_started_from(runs, base, tmp_path):
    out = soup(runs, tmp_path / "sum", Arithmetic(), weights=[1.0, -1.0], say=QUIET)
    made, start = tuned.whole(out), tuned.whole(base, "best")
    first, second = (tuned.whole(run, "best") for run in runs)
    name = "encoder/layers/attention/query/kernel"
    want = start[name] + first[name] - second[name]
    np.testing.assert_allclose(made[name], want, rtol=1e-5, atol=1e-6)


def test_a_greedy_soup_is_never_worse_than_the_best_run(runs, tmp_path):
    said = []
    out = soup(runs, tmp_path / "soup", greedy=True, say=said.append)
    best = max(evaluate_run(run)["accuracy"] for run in runs)
    assert evaluate_run(out)["accuracy"] >= best
    assert len(said) == 3 and ("taken" in said[1] or "left out" in said[1])


@pytest.mark.parametrize(
    ("which", "options", "what"),
    [
        (lambda a, b, base: [a], {}, "not several runs"),
        (lambda a, b, base: [a, a], {}, "not several runs"),
        (lambda a, b, base: [a, base], {}, "different parameters"),
        (lambda a, b, base: [a, b], {"weights": [1.0]}, "not a weight for each run"),
        (lambda a, b, base: [a, b], {"weights": [1.0, -1.0]}, "add up to nothing"),
        (lambda a, b, base: [a, b], {"greedy": True, "weights": [1.0, 2.0]}, "plain mean"),
        (lambda a, b, base: [a, b], {"greedy": True, "method": Ties()}, "plain mean"),
    ],
)
def test_what_cannot_be_averaged_is_refused(which, options, what, runs, base, tmp_path):
    with pytest.raises(UserError, match=what):
        soup(which(*runs, base), tmp_path / "soup", say=QUIET, **options)
    assert not list(tmp_path.iterdir())


def test_runs_of_two_starts_are_refused(runs, base, words, table, tmp_path):
    other = tmp_path / "other-base"
    overrides = ("train.steps=4", "optimizer.schedule.warmup=1", "evaluation.every=0")
    train_run(toy.configured(words, other, "bert", *overrides, "train.seed=5"), QUIET)
    third = tmp_path / "third"
    settings = ("train.steps=1", "train.epochs=null", "task.pooling=mean")
    train_run(tuned.configured(other, table, third, *settings), QUIET)
    with pytest.raises(UserError, match="did not start from the same model"):
        soup([runs[0], third], tmp_path / "soup")
