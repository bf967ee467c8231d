"""A masked and a causal language model and a classifier are the same over every mesh: each axis
alone and all combinations, on 2, 4 and 8 devices; the first gradient and twenty losses."""

import functools

import equal
import numpy as np
import pytest
import tiny

from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.rules import AXES
from jaxssl.tasks.classify import Classify

LENGTH = 32
MESHES = {equal.named(mesh): mesh for mesh in equal.meshes(2, 4, 8)}
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


def case(name):
    objective, model, batch = CASES[name]
    return equal.Case(objective=objective, model=model, batch=batch, vocabulary=tiny.WORDS)


@functools.cache
def one(name):
    """On one device."""
    return equal.take(case(name), tiny.mesh())


def test_every_axis_is_there_alone_and_with_each_other():
    used = {tuple(axis for axis in AXES if mesh[axis] > 1) for mesh in MESHES.values()}
    assert {(axis,) for axis in AXES} <= used
    assert {(a, b) for i, a in enumerate(AXES) for b in AXES[i + 1 :]} <= used


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_are_the_same_on_one_device_and_over_the_mesh(name, mesh, record_property):
    sizes = MESHES[mesh]
    got = equal.take(case(name), tiny.mesh(**sizes))
    equal.note(record_property, name, sizes, *equal.check(got, one(name)))
