"""Optimizers and schedules as recipes name them."""

from dataclasses import dataclass

import pytest

from jaxssl.core.config import build, document, load, to_dict, to_yaml
from jaxssl.core.config import parse_yaml as parse
from jaxssl.core.errors import UserError, UserErrors
from jaxssl.core.registry import choice_name, members
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.base import Optimizer
from jaxssl.optim.schedules import Cosine, Linear, Schedule, WarmupStableDecay
from jaxssl.optim.sgd import Sgd

OPTIMIZERS, SCHEDULES = members(Optimizer), members(Schedule)


@dataclass(frozen=True, kw_only=True)
class Run:
    optimizer: Optimizer = AdamW(learning_rate=5e-5)


def run(text="", *overrides):
    return load(Run, [parse(text, "recipe") or {}], overrides).optimizer


def test_names_are_told_apart():
    for choices in (OPTIMIZERS, SCHEDULES):
        names = [choice_name(choice) for choice in choices]
        assert all(names) and len(set(names)) == len(names)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=choice_name)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=choice_name)
def test_each_is_written_and_read_again(optimizer, schedule):
    config = Run(optimizer=optimizer(learning_rate=0.5, schedule=schedule()))
    assert build(Run, parse(to_yaml(config), "config.yaml")) == config


def test_without_a_name_it_is_adamw_with_a_linear_schedule():
    got = run("optimizer: {learning_rate: 0.1, b2: 0.9, schedule: {warmup: 3}}")
    assert got == AdamW(learning_rate=0.1, b2=0.9, schedule=Linear(warmup=3))
    assert run("", "optimizer.schedule.warmup=3") == AdamW(schedule=Linear(warmup=3))


def test_another_name_drops_the_settings_of_the_old_one():
    adamw = "optimizer: {name: adamw, b2: 0.9, learning_rate: 0.1}"
    got = run(adamw, "optimizer.name=sgd", "optimizer.learning_rate=0.5")
    assert got == Sgd(learning_rate=0.5)
    linear = "optimizer: {schedule: {name: linear, warmup: 3}}"
    assert run(linear, "optimizer.schedule.name=cosine").schedule == Cosine()


def test_a_setting_of_another_schedule_is_refused_and_told_whose_it_is():
    with pytest.raises(UserError) as caught:
        run("", "optimizer.schedule={name: linear, decay: 0.1}")
    error = caught.value
    assert error.where == "optimizer.schedule.decay" and "a setting of wsd" in error.what
    assert error.fix == "leave it out, or set optimizer.schedule.name=wsd"
    with pytest.raises(UserError, match="did you mean 'warmup'"):
        run("", "optimizer.schedule={name: linear, warmpu: 0.1}")
    with pytest.raises(UserErrors, match="a setting of adamw") as caught:
        run("optimizer: {b2: 0.9, momentun: 0.5}", "optimizer.name=sgd")
    assert "did you mean 'momentum'" in str(caught.value)


def test_sgd_has_no_learning_rate_of_its_own():
    with pytest.raises(UserError, match="required") as caught:
        run("optimizer: {name: sgd}")
    assert caught.value.where == "optimizer.learning_rate"


def test_help_documents_every_setting_of_each():
    text = "\n".join(document(Run))
    for choice in OPTIMIZERS:
        assert f"--- optimizer.name={choice_name(choice)}" in text
    for choice in SCHEDULES:
        assert f"--- optimizer.schedule.name={choice_name(choice)}" in text
    assert "Decay of the sum of past gradients" in text and "Largest global norm" in text


def test_adamws_defaults_are_those_of_old_runs():
    """A run directory holds them all; a recipe may leave any of them out."""
    shared = {"learning_rate": 1e-4, "weight_decay": 0.01, "clip_norm": 1.0}
    own = {"b1": 0.9, "b2": 0.999, "epsilon": 1e-8, "bias_correction": True, "moment_dtype": None}
    layers = {"layer_decay": None, "electra_bug": False, "no_decay": ["**/bias", "**/scale"]}
    schedule = {"name": "linear", "unit": "steps", "warmup": 0, "floor": 0.0}
    want = {"name": "adamw", "schedule": schedule, **shared, **own, **layers}
    assert to_dict(AdamW()) == want
    assert WarmupStableDecay().decay == 0.1
