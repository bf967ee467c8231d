"""What a validation decides: the best checkpoint, and an early end."""

import dataclasses

import pytest
import toy

from jaxssl import run
from jaxssl.core.errors import UserError
from jaxssl.train import validation
from jaxssl.train.evaluation import Evaluation
from jaxssl.train.settings import Settings
from jaxssl.train.validation import Validation, scores_of


def validated(byte_store, out, monkeypatch, name, numbers, *overrides):
    """A `Validation` after validations in which the score `name` was these numbers."""
    config = toy.configured(byte_store, out, "gpt2", f"evaluation.best_by={name}", *overrides)
    parts = run.build(config)
    settings = Settings(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)})
    made = Validation(parts, settings, [])
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
    parts = run.build(toy.configured(byte_store, tmp_path, "gpt2"))
    names = ["loss", "loss/causal_lm", "accuracy/causal_lm", "perplexity", "bits_per_byte"]
    assert sorted(scores_of(parts)) == sorted(names)


@pytest.mark.parametrize("name", ["acuracy/causal_lm", "loss/masked_lm"])
def test_a_score_that_no_validation_has_is_refused_before_the_run(name, byte_store, tmp_path):
    config = toy.configured(byte_store, tmp_path, "gpt2", f"evaluation.best_by={name}")
    with pytest.raises(UserError, match="no such score") as told:
        run.build(config)
    assert told.value.where == "evaluation.best_by" and "accuracy/causal_lm" in str(told.value)
