"""The program of a plan is the one that training runs, however few the data are."""

import jax
import numpy as np
import toy

from jaxssl.core.names import flatten
from jaxssl.models.layers import unbox
from jaxssl.parallel.rules import make_rules, use_layout
from jaxssl.program.phase import Phases
from jaxssl.run.build import build
from jaxssl.run.planned import plan_program


def shapes(program):
    """Of the batches, the parameters and the whole state."""
    with use_layout(program.mesh, make_rules({})):
        state = jax.tree.map(lambda x: (x.shape, x.dtype), Phases(program).at(0).abstract)
    batches = {s.name: {k: (x.shape, x.dtype) for k, x in s.batch.items()} for s in program.streams}
    params = {k: (x.shape, x.dtype) for k, x in flatten(unbox(program.model.abstract())).items()}
    return batches, params, jax.tree.leaves(state)


def test_a_plan_has_the_shapes_of_the_run(words, tmp_path):
    config = toy.configured(words, tmp_path / "run")
    ours = plan_program(config, jax.devices()[:1])
    theirs = build(config).work.program
    assert shapes(ours)[0] == shapes(theirs)[0]
    assert shapes(ours)[1] == shapes(theirs)[1] and shapes(ours)[2] == shapes(theirs)[2]


def test_a_plan_may_have_more_rows_than_there_are_data(words, tmp_path):
    config = toy.configured(words, tmp_path / "run", "bert", "data.batch_size=100000")
    (stream,) = plan_program(config, jax.devices()[:1]).streams
    assert {x.shape[0] for x in stream.batch.values()} == {100_000}
    step = Phases(plan_program(config, jax.devices()[:1])).at(0).step(("",))
    assert step is not None and np.prod(stream.batch["tokens"].shape) > 1e6
