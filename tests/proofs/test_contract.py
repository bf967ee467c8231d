"""What the contract of objectives carries: several networks, samples, teachers, whole batches."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from proofs.distil import Distil
from proofs.electra import Electra
from proofs.prefix_lm import PrefixLm
from proofs.simcse import SimCse, contrast

from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.models.model import Model
from jaxssl.models.network import Tie
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.program.gradients import make_loss, split_rows

LENGTHS = np.random.default_rng(0).integers(6, 17, 61)
ROWS = tiny.rows([[d] for d in tiny.random_documents(LENGTHS)], length=16, count=64)
"""64 rows, the last three of them padding."""


def wide(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def model_of(objective, dtype="float32", **changes) -> Model:
    config = tiny.bert(pooler=False, **changes)
    precision = Precision(parameters=dtype, compute=dtype, reduce=dtype)
    networks = dict(objective.networks(config))
    ties = networks.pop("").ties if "" in networks else ()
    others = tuple(
        Model(network.config or config, network.heads, precision, root=name, ties=network.ties)
        for name, network in networks.items()
    )
    return Model(config, objective.heads, precision, ties=ties, others=others)


# --- ELECTRA ------------------------------------------------------------------------------------

TABLE = "embeddings/tokens/embedding"
TABLES = {
    "own": {TABLE, f"generator/{TABLE}"},
    "shared": {TABLE},
    "stopped": {f"generator/{TABLE}"},
}


@pytest.mark.parametrize("table", TABLES)
def test_the_discriminator_teaches_the_generator_nothing_but_a_shared_table(table):
    objective = Electra(table=table)
    model = model_of(objective)
    params = tiny.random_params(model)
    assert {path for path in flatten(params) if path.endswith(TABLE)} == TABLES[table]
    batch = jax.tree.map(jnp.asarray, tiny.corrupted(objective, ROWS))

    def loss(params, name):
        outputs = objective.forward(model, params, batch, None)
        return objective.sums(model, params, outputs, batch).losses[name]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    norms = {
        name: {path: float(jnp.linalg.norm(x)) for path, x in flatten(found).items()}
        for name in objective.losses
        for found in [gradient(params, name)]
    }
    inside = [p for p in norms["replaced"] if p.startswith("generator/") and TABLE not in p]
    assert inside and all(norms["replaced"][path] == 0.0 for path in inside)
    assert all(norms["masked_lm"][path] > 0 for path in inside if not path.endswith("key/bias"))
    own = [p for p in norms["masked_lm"] if p.startswith("encoder/")]
    assert own and all(norms["masked_lm"][path] == 0.0 for path in own)
    assert norms["replaced"].get(f"generator/{TABLE}", 0.0) == 0.0
    assert (norms["replaced"].get(TABLE, 0.0) > 0) is (table != "stopped")


def test_samples_are_the_same_on_eight_devices_and_on_four_microbatches():
    objective = Electra(table="shared")
    model = model_of(objective)
    params = tiny.random_params(model)

    @jax.jit
    def fake(params, batch):
        return objective.forward(model, params, tiny.corrupted(objective, batch), None)["fake"]

    whole = np.asarray(fake(params, ROWS))
    assert (whole != ROWS["tokens"]).sum() > 50
    parts = [fake(params, {name: x[turn::4] for name, x in ROWS.items()}) for turn in range(4)]
    np.testing.assert_array_equal(np.stack(parts, axis=1).reshape(64, -1), whole)
    over = tiny.mesh(8)
    with jax.set_mesh(over):
        rows = jax.device_put(ROWS, batch_sharding(over))
        np.testing.assert_array_equal(fake(tiny.shard_params(model, params, over), rows), whole)


def test_a_network_draws_dropout_masks_of_its_own():
    model = model_of(Distil(), dropout=0.5)
    alike = tiny.random_params(model)
    alike = {**alike, "teacher": {name: x for name, x in alike.items() if name != "teacher"}}
    key = jax.random.key(0)
    teacher = model.network("teacher")
    first, second = (net.encode(alike, ROWS, None) for net in (model, teacher))
    np.testing.assert_array_equal(first, second)
    first, second = (net.encode(alike, ROWS, key) for net in (model, teacher))
    assert float(jnp.mean(jnp.abs(first - second))) > 0.1


def test_a_cache_has_the_shapes_of_its_own_network():
    objective = Electra(table="shared", generator_layers=1)
    cache = model_of(objective).network("generator").empty_cache(2, 8)
    assert {x.shape[0] for x in jax.tree.leaves(cache)} == {1}


def test_a_borrowed_parameter_is_not_counted_twice():
    model = model_of(Electra(table="shared"))
    own = model.network("generator")
    assert own.ties == (Tie("embeddings/tokens", "embeddings/tokens"),)
    assert TABLE not in flatten(own.abstract())
    params = tiny.random_params(model)
    assert own.own(params)["embeddings"]["tokens"]["embedding"] is flatten(params)[TABLE]


# --- SimCSE -------------------------------------------------------------------------------------

CONTRAST = Combine(
    terms=(Term(objective=MaskedLm(), weight=0.7), Term(objective=SimCse(), weight=1.3))
)


def test_the_loss_of_vectors_at_random_is_that_of_a_guess():
    vectors = jax.random.normal(jax.random.key(0), (256, 2, 4096))
    vectors /= jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    loss = contrast(vectors, jnp.ones(256), 1.0) / 256
    assert abs(float(loss) - np.log(256)) < 1e-3


@functools.cache
def contrasted(dtype, devices, microbatches):
    """(loss, metrics, gradients) of one step."""
    with wide(dtype):
        model = model_of(CONTRAST, dtype, dropout=0.1, attention_dropout=0.1)
        params, over = tiny.random_params(model), tiny.mesh(devices)
        loss = jax.jit(make_loss(model, CONTRAST, microbatches))
        with jax.set_mesh(over):
            rows = jax.device_put(ROWS, batch_sharding(over))
            rows = {**rows, **CONTRAST.corrupt(rows, 0, tiny.WORDS)}
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
    assert all(e < limit for path, e in errors.items() if "key/bias" not in path), errors


def test_a_parameter_that_only_the_whole_batch_reads_has_its_gradient():
    grads = flatten(contrasted("float32", 1, 4)[2])
    head = [x for path, x in grads.items() if path.startswith("projection/")]
    assert head and all(np.linalg.norm(x) > 1e-3 for x in head)


def test_rows_of_padding_are_nobodys_negatives():
    vectors = jax.random.normal(jax.random.key(1), (8, 2, 6))
    real = jnp.asarray([1.0] * 5 + [0.0] * 3)
    np.testing.assert_allclose(
        contrast(vectors, real, 0.1), contrast(vectors[:5], real[:5], 0.1), rtol=1e-6
    )


# --- Prefix LM ----------------------------------------------------------------------------------


def test_a_prefix_is_seen_whole_and_what_follows_is_not_seen_before_it_is_guessed():
    objective = PrefixLm()
    model = model_of(objective)
    params = tiny.random_params(model)
    batch = tiny.corrupted(objective, ROWS)
    cut = int(batch["prefix"][0].sum())

    @jax.jit
    def encode(tokens):
        return objective.forward(model, params, {**batch, "tokens": tokens}, None)["hidden"][0]

    def moved(place):
        changed = jnp.asarray(ROWS["tokens"]).at[0, place].add(1)
        return np.abs(encode(changed) - encode(ROWS["tokens"])).max(axis=1)

    assert cut >= 2 and (moved(cut - 1)[: LENGTHS[0]] > 1e-4).all()
    later = moved(cut)
    assert (later[:cut] < 1e-6).all() and later[cut] > 1e-4


def test_microbatches_are_the_rows_of_the_batch():
    parts = split_rows(jnp.arange(8), 4)
    assert parts.shape == (4, 2) and sorted(np.ravel(parts).tolist()) == list(range(8))
