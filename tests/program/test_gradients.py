"""The law of the training step: how a batch is laid out does not change its gradient.

The same documents, one a row or packed, with or without more padding, in 1, 2 or 4 microbatches, on
1 or 8 devices. Most labels fall into one microbatch in four, so that a mean of means would show.
"""

import contextlib
import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.program.gradients import make_loss

TOLERANCE = {"float64": 1e-12, "float32": 3e-6}
MESHES = {"1 device": (1, 1, 1), "data 8": (8, 1, 1), "fsdp 4 x tensor 2": (1, 4, 2)}
ALONE, PACKED, PLAIN, PADDED = "alone", "packed", "no padding", "more padding"

RNG = np.random.default_rng(0)
DOCUMENTS = tiny.random_documents([16 if i % 4 == 0 else RNG.integers(2, 6) for i in range(64)])


@functools.cache
def causal_batch(packing, padding):
    if packing == PACKED:
        # More rows; the tight layout has a few empty rows too, so that 8 x 4 divides it.
        count = 64 if padding == PADDED else 32
        batch = tiny.rows(tiny.pack(DOCUMENTS, 16), length=16, count=count)
    else:
        batch = tiny.rows([[d] for d in DOCUMENTS], length=24 if padding == PADDED else 16)
    return jax.tree.map(np.asarray, tiny.corrupted(CausalLm(), batch, 0, tiny.WORDS))


@functools.cache
def masked_batch():
    """Alone, with given positions: the first quarter of each document."""
    batch = tiny.rows([[d] for d in DOCUMENTS], length=16)
    positions = np.tile(np.arange(4, dtype=np.int32), (64, 1))
    quarter = np.array([[max(1, len(d) // 4)] for d in DOCUMENTS])
    labels = np.take_along_axis(batch["tokens"], positions, axis=1)
    return {
        **batch,
        "mask_positions": positions,
        "mask_labels": labels,
        "mask_weights": (positions < quarter).astype(np.float32),
    }


CAUSAL = (tiny.gpt2(), CausalLm(chunk=8))
MASKED = (tiny.bert(), MaskedLm(chunk=2))


def wide(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


@functools.cache
def compiled(what, dtype, sizes, microbatches):
    config, objective = what
    model = Model(config, objective.heads, Precision(parameters=dtype, compute=dtype, reduce=dtype))
    loss = jax.jit(make_loss(model, objective, microbatches))
    params, over = tiny.random_params(model), tiny.mesh(*sizes)
    sharded = tiny.shard_params(model, params, over)

    def run(batch):
        with jax.set_mesh(over):
            rows = jax.device_put(batch, batch_sharding(over))
            value, _, gradients = loss(sharded, rows, None)
        for leaf in jax.tree.leaves(gradients):
            assert leaf.dtype == dtype and leaf.sharding.device_set == set(over.devices.flat)
        return float(value), jax.device_get(gradients)

    return run


def gradients(what, dtype, batch, sizes=(1, 1, 1), microbatches=1):
    with wide(dtype):
        return compiled(what, dtype, sizes, microbatches)(batch)


@functools.cache
def reference(what, dtype):
    batch = masked_batch() if what is MASKED else causal_batch(ALONE, PLAIN)
    return gradients(what, dtype, batch)


def same_gradients(got, want, tolerance):
    assert got[0] == pytest.approx(want[0], rel=tolerance)
    errors = tiny.relative_l2(got[1], want[1])
    # A key's bias has no gradient (a softmax ignores it), only rounding: next to nothing.
    flat = flatten(got[1])
    for name in [name for name in errors if name.endswith("key/bias")]:
        errors[name] = np.linalg.norm(flat[name]) / np.linalg.norm(
            flat[name.replace("key", "query")]
        )
    assert max(errors.values()) <= tolerance, {k: v for k, v in errors.items() if v > tolerance}


ONE, CORNER = (1, 1, 1), (MESHES["fsdp 4 x tensor 2"], 4, PACKED, PADDED)
# Each is a program to compile: the shapes on one device, meshes and microbatches on one shape, and
# a corner where all differ.
LAYOUTS = [
    *((ONE, 1, *shape) for shape in ((PACKED, PLAIN), (ALONE, PADDED), (PACKED, PADDED))),
    *(
        (sizes, n, ALONE, PLAIN)
        for sizes in MESHES.values()
        for n in (1, 2, 4)
        if (sizes, n) != (ONE, 1)
    ),
    CORNER,
]


@pytest.mark.parametrize("sizes, microbatches, packing, padding", LAYOUTS, ids=str)
def test_gradients_do_not_depend_on_the_layout(sizes, microbatches, padding, packing):
    batch = causal_batch(packing, padding)
    got = gradients(CAUSAL, "float64", batch, sizes, microbatches)
    same_gradients(got, reference(CAUSAL, "float64"), TOLERANCE["float64"])


@pytest.mark.parametrize(
    "sizes, microbatches, packing, padding",
    [*((sizes, 4, ALONE, PLAIN) for sizes in MESHES.values()), CORNER],
    ids=str,
)
def test_in_float32_they_agree_to_rounding(sizes, microbatches, padding, packing):
    batch = causal_batch(packing, padding)
    got = gradients(CAUSAL, "float32", batch, sizes, microbatches)
    same_gradients(got, reference(CAUSAL, "float32"), TOLERANCE["float32"])


@pytest.mark.parametrize(
    "sizes, microbatches",
    [((1, 1, 1), 2), ((1, 1, 1), 4), ((8, 1, 1), 1), ((8, 1, 1), 4), ((1, 4, 2), 2)],
    ids=str,
)
def test_masked_gradients_do_not_depend_on_the_layout(sizes, microbatches):
    got = gradients(MASKED, "float64", masked_batch(), sizes, microbatches)
    same_gradients(got, reference(MASKED, "float64"), TOLERANCE["float64"])


def test_labels_fall_unevenly_over_the_microbatches():
    for batch, weights in (
        (causal_batch(ALONE, PLAIN), "next_weights"),
        (masked_batch(), "mask_weights"),
    ):
        counts = batch[weights].sum(axis=1).reshape(16, 4).sum(axis=0)
        assert counts.max() > 3 * counts.min(), counts
