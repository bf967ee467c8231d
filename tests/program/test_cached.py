"""Losses over the whole batch: in parts, on any number of devices, as at once."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.contrast.ranking import Ranking
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.simcse import SimCse
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.program.gradients import make_loss, split_rows

LENGTHS = np.random.default_rng(0).integers(6, 17, 61)
ROWS = tiny.rows([[d] for d in tiny.random_documents(LENGTHS)], length=16, count=64)
"""64 rows, the last three of them padding."""
CONTRAST = SimCse(projection=True, loss=Ranking(learn_temperature=True))
BOTH = Combine(terms=(Term(objective=MaskedLm(), weight=0.7), Term(objective=CONTRAST, weight=1.3)))


def wide(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


@functools.cache
def contrasted(dtype, devices, microbatches):
    """(loss, metrics, gradients) of one step."""
    with wide(dtype):
        config = tiny.bert(pooler=False, dropout=0.1, attention_dropout=0.1)
        precision = Precision(parameters=dtype, compute=dtype, reduce=dtype)
        model = Model(config, BOTH.heads, precision)
        params, over = tiny.random_params(model), tiny.mesh(devices)
        loss = jax.jit(make_loss(model, BOTH, microbatches))
        with jax.set_mesh(over):
            rows = jax.device_put(ROWS, batch_sharding(over))
            rows = {**rows, **BOTH.corrupt(rows, 0, tiny.WORDS)}
            found = loss(tiny.shard_params(model, params, over), rows, jax.random.key(7))
        return jax.device_get(found)


LAYOUTS = [
    ("float32", 3e-6, 8, 4),
    pytest.param("float32", 3e-6, 1, 4, marks=pytest.mark.slow),
    pytest.param("float64", 1e-12, 8, 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("dtype, limit, devices, microbatches", LAYOUTS)
def test_every_row_is_told_from_all_others_on_any_layout(dtype, limit, devices, microbatches):
    value, metrics, grads = contrasted(dtype, devices, microbatches)
    want_value, want_metrics, want = contrasted(dtype, 1, 1)
    assert abs(value - want_value) < limit * abs(want_value)
    for name, wanted in want_metrics.items():
        np.testing.assert_allclose(metrics[name], wanted, rtol=1e-5)
    # The keys' bias moves no attention weight: its gradient is noise around 0.
    errors = tiny.relative_l2(grads, want)
    assert errors.pop("similarity_scale/scale") < 10 * limit, "one sum of terms that cancel"
    assert all(e < limit for path, e in errors.items() if "key/bias" not in path), errors


def test_a_parameter_that_only_the_whole_batch_reads_has_its_gradient():
    grads = flatten(contrasted("float32", 8, 4)[2])
    assert abs(grads["similarity_scale/scale"]) > 1e-3


def test_microbatches_are_the_rows_of_the_batch():
    parts = split_rows(jnp.arange(8), 4)
    assert parts.shape == (4, 2) and sorted(np.ravel(parts).tolist()) == list(range(8))
