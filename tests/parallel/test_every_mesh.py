"""A masked and a causal language model and a classifier are the same over every mesh: each axis
alone, on 2, 4 and 8 devices, and all combinations; the first gradient and twenty losses."""

import functools
import itertools

import equal
import numpy as np
import pytest
import tiny

from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.rules import AXES
from jaxssl.tasks.classify import Classify

LENGTH = 32
SHAPE = dict(num_heads=8, dropout=0.1)  # every axis may be of eight


def rows(**extra):
    """Rows of two documents and some padding."""
    drawn = [tiny.random_documents((17, 5 + i), seed=i) for i in range(8)]
    return {**tiny.rows(drawn, length=LENGTH), **extra}


def labelled():
    """Rows of one document, the last one padding."""
    real = np.arange(8) < 7
    drawn = [tiny.random_documents((20 + i,), seed=i) for i in range(8)]
    return {
        **tiny.rows(drawn, length=LENGTH),
        "labels": np.arange(8, dtype=np.int32) % 3,
        "example_weights": real.astype(np.float32),
    }


CASES = {
    "masked_lm": (MaskedLm(slots=16), tiny.bert(pooler=False, **SHAPE), rows),
    "causal_lm": (CausalLm(), tiny.gpt2(**SHAPE), rows),
    "classify": (Classify(labels=("a", "b", "c")), tiny.bert(**SHAPE), labelled),
}


ALL = equal.meshes(2, 4, 8)
SMALLEST = {equal.split_over(mesh): mesh for mesh in reversed(ALL)}
"""Of each combination of axes."""
LARGER = [x for x in ALL if x not in SMALLEST.values() and len(equal.split_over(x)) == 1]
TURNS = [
    *itertools.product(CASES, SMALLEST.values()),
    *zip(itertools.cycle(CASES), LARGER),  # one of the three each
]


def case(name):
    objective, model, batch = CASES[name]
    return equal.Case(objective=objective, model=model, batch=batch, vocabulary=tiny.WORDS)


@functools.cache
def one(name):
    """On one device."""
    return equal.take(case(name), tiny.mesh())


def test_every_axis_is_there_alone_and_with_each_other():
    assert {axes for n in (1, 2, 3) for axes in itertools.combinations(AXES, n)} == {*SMALLEST}
    taken = {equal.named(mesh) for _, mesh in TURNS}
    assert {f"{axis} {n}" for axis in AXES for n in (2, 4, 8)} <= taken


def shown(value):
    return value if isinstance(value, str) else equal.named(value)


@pytest.mark.slow
@pytest.mark.parametrize("name, mesh", TURNS, ids=shown)
def test_twenty_steps_are_the_same_on_one_device_and_over_the_mesh(name, mesh, record_property):
    got = equal.take(case(name), tiny.mesh(**mesh), one(name).first)
    equal.note(record_property, name, mesh, *equal.check(got, one(name)))
