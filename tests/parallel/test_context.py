"""Rows whose tokens lie over devices: the axis `context`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.models.model import Model
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.span_corruption import SpanCorruption
from jaxssl.ops.losses import filled_chunks
from jaxssl.parallel.axes import constrain
from jaxssl.parallel.mesh import MeshConfig, batch_sharding, check_length, make_mesh
from jaxssl.parallel.rules import DEFAULT, use_layout
from jaxssl.program.gradients import make_loss

T, VOCAB = 32, 64
SENTINELS = {f"<extra_id_{i}>": VOCAB - 1 - i for i in range(16)}
WORDS = dataclasses.replace(tiny.vocabulary(VOCAB), special_tokens=SENTINELS)
DROPOUT = dict(vocab_size=VOCAB, dropout=0.1, attention_dropout=0.1)
SHAPE = {**tiny.SHAPE, "vocab_size": VOCAB}
WINDOWS = ModernBertConfig(**SHAPE, max_positions=T, local_window=4, global_every=2)
SIDES = T5Config(**{**SHAPE, "num_layers": 1}, head_width=8, relative_buckets=8)
CASES = {
    "masked, slots that do not divide": (MaskedLm(slots=7), tiny.bert(**DROPOUT)),
    "windows": (MaskedLm(slots=16), WINDOWS),
    "causal": (CausalLm(chunk=8), tiny.gpt2(**DROPOUT)),
    "causal, chunks that do not divide": (CausalLm(chunk=13), tiny.gpt2(**DROPOUT)),
    "two sides": (SpanCorruption(joined=False), SIDES),
}


def made(name, sizes, microbatches=1):
    """(loss, gradient) of a batch with dropout on a mesh."""
    objective, config = CASES[name]
    model, over = Model(config, objective.heads), tiny.mesh(**sizes)
    documents = tiny.random_documents([20, 9, 30, 5, 32, 11, 16, 8, 8, 28, 17, 3])
    batch = tiny.rows(tiny.pack(documents, T), length=T, count=8)
    batch = tiny.corrupted(objective, batch, vocabulary=WORDS)
    with use_layout(over, DEFAULT):
        params = tiny.shard_params(model, tiny.random_params(model), over)
        rows = jax.device_put(batch, batch_sharding(over))
        loss, _, grads = jax.jit(make_loss(model, objective, microbatches))(
            params, rows, jax.random.key(3)
        )
    return float(loss), jax.device_get(grads)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        *((name, dict(data=2, fsdp=1, context=2, tensor=2)) for name in CASES),
        ("causal", dict(context=4)),
        ("causal", dict(fsdp=2, context=4)),
        ("windows", dict(context=8)),
    ],
)
def test_a_step_is_that_of_one_device(name, sizes):
    (loss, grads), (one, expected) = made(name, sizes), made(name, {})
    assert loss == pytest.approx(one, rel=1e-6)
    errors = tiny.relative_l2(grads, expected)
    errors = {name: x for name, x in errors.items() if not name.endswith("key/bias")}  # 0
    assert len(errors) > 8 and max(errors.values()) < 3e-6


def test_microbatches_change_nothing():
    sizes = dict(fsdp=2, context=2)
    (loss, grads), (one, expected) = made("causal", sizes, microbatches=2), made("causal", {})
    assert loss == pytest.approx(one, rel=1e-6)
    errors = tiny.relative_l2(grads, expected)
    assert max(x for name, x in errors.items() if not name.endswith("key/bias")) < 3e-6


@pytest.mark.parametrize(("length", "chunk"), [(32, 8), (32, 13), (24, 24), (7, 3), (5, 9)])
def test_each_chunk_has_as_many_places_of_each_shard(length, chunk, shards=4):
    x = np.arange(2 * length, dtype=np.int32).reshape(2, length) + 1
    chunks = np.asarray(filled_chunks(jnp.asarray(x), chunk, shards))
    assert chunks.shape[0] == -(-length // chunk) and chunks.shape[2] % shards == 0
    for row in range(2):
        assert sorted(chunks[:, row][chunks[:, row] > 0]) == x[row].tolist()
    if length % shards == 0:
        own = np.asarray(chunks).reshape(len(chunks), 2, shards, -1)
        for shard in range(shards):
            places = own[:, 0, shard][own[:, 0, shard] > 0] - 1
            assert set(places // (length // shards)) == {shard}


def test_a_mesh_without_the_axis_has_programs_without_it():
    assert make_mesh(MeshConfig(fsdp=4, tensor=2)).axis_names == ("data", "fsdp", "tensor")
    over = make_mesh(MeshConfig(fsdp=2, context=2, tensor=2))
    assert dict(over.shape) == {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}


def test_hidden_states_lie_in_shards_and_parameters_too():
    over = tiny.mesh(fsdp=2, context=2, tensor=2)
    with use_layout(over, DEFAULT):
        x = jnp.ones((4, 8, 16))
        between = constrain(x, ("batch", "residual", "activation")).sharding
        assert between.shard_shape(x.shape) == (2, 2, 16)
        inside = constrain(x, ("batch", "sequence", "mlp")).sharding
        assert inside.shard_shape(x.shape) == (2, 4, 8)
        kernel = constrain(jnp.ones((16, 32)), ("embed", "mlp")).sharding
        assert kernel.shard_shape((16, 32)) == (4, 16)


def test_what_does_not_divide_is_split_by_the_first_axes():
    with use_layout(tiny.mesh(context=2, tensor=4), DEFAULT):
        names = ("batch", "residual", "activation")
        for length, own in ((8, 1), (6, 3), (1, 1), (5, 5)):
            x = jnp.ones((1, length, 4))
            assert constrain(x, names).sharding.shard_shape(x.shape)[1] == own


def test_rows_that_do_not_divide_are_refused():
    over = tiny.mesh(context=8)
    check_length(64, over)
    with pytest.raises(UserError, match="do not divide over the devices that share") as error:
        check_length(100, over)
    assert error.value.fix == "rows of 96 or 104 tokens" and error.value.where == "mesh.context"
