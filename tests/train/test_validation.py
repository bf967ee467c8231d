"""What a validation decides: the best checkpoint, and an early end."""

import pytest
import toy

from jaxssl.core.errors import UserError
from jaxssl.run.build import build
from jaxssl.train import validation
from jaxssl.train.evaluation import Evaluation
from jaxssl.train.validation import Validation, scores_of


def validated(byte_store, out, monkeypatch, name, numbers, *overrides):
    """A `Validation` after validations in which the score `name` was these numbers."""
    config = toy.configured(byte_store, out, "gpt2", f"evaluation.best_by={name}", *overrides)
    work = build(config).work
    made = Validation(work.program, work.feeds, work.settings, [])
    coming = iter(numbers)
    numbers_of = lambda *args, **kwargs: Evaluation({name: next(coming)}, None, {})  # type: ignore
    monkeypatch.setattr(validation, "evaluate", numbers_of)
    is_best = []
    for step, _ in enumerate(numbers, start=1):
        made.validate(step, {})
        is_best.append(made.is_best)
    return made, is_best


LOWER = ("loss", "loss/causal_lm", "perplexity", "bits_per_byte")


@pytest.mark.parametrize("name", [*LOWER, "accuracy/causal_lm"])
def test_the_best_is_the_lowest_loss_or_perplexity_and_the_highest_accuracy(
    name, byte_store, tmp_path, monkeypatch
):
    stop = "evaluation.early_stopping.patience=2"
    falling = [0.9, 0.5, 0.6, 0.7]
    rising = [0.1, 0.5, 0.4, 0.3]
    good, bad = (falling, rising) if name in LOWER else (rising, falling)
    made, is_best = validated(byte_store, tmp_path, monkeypatch, name, good, stop)
    assert is_best == [True, True, False, False]
    assert made.stops_early
    made, is_best = validated(byte_store, tmp_path, monkeypatch, name, bad[:2], stop)
    assert is_best == [True, False]
    assert not made.stops_early


def test_the_scores_of_a_run_are_known_before_it_begins(byte_store, tmp_path):
    work = build(toy.configured(byte_store, tmp_path, "gpt2")).work
    names = ["loss", "loss/causal_lm", "accuracy/causal_lm", "perplexity", "bits_per_byte"]
    assert sorted(scores_of(work.program, work.feeds)) == sorted(names)


@pytest.mark.parametrize("name", ["acuracy/causal_lm", "loss/masked_lm"])
def test_a_score_that_no_validation_has_is_refused_before_the_run(name, byte_store, tmp_path):
    config = toy.configured(byte_store, tmp_path, "gpt2", f"evaluation.best_by={name}")
    with pytest.raises(UserError, match="no such score") as told:
        build(config)
    assert told.value.where == "evaluation.best_by" and "accuracy/causal_lm" in str(told.value)
