"""Other tables of logical axes: the promised shardings, the same numbers, and mistakes."""

import functools

import jax
import numpy as np
import pytest
import tiny
import toy
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.parallel.axes import constrain
from jaxssl.parallel.mesh import MeshConfig, batch_shards, check_batch
from jaxssl.parallel.rules import make_rules, use_layout, use_rules
from jaxssl.program.phase import Phases
from jaxssl.run.open import open_run
from jaxssl.run.train import train_run

OBJECTIVE = CausalLm(chunk=8)
MODEL = Model(tiny.gpt2(dropout=0.1, attention_dropout=0.1), OBJECTIVE.heads)
OPTIMIZER, _ = make_optimizer(AdamW(), 100, 1)
BATCH = tiny.rows([[d] for d in tiny.random_documents([16, 9, 5, 12, 16, 3, 7, 16])])
MESH = (2, 2, 2)
FEWER = {"inner width over two axes": (1, 2, 2)}
"""On eight devices of two cores its step, once it comes from the cache of compilations, waits for
itself in XLA's collectives."""

UP, TABLE = "decoder/layers/feed_forward/up/kernel", "embeddings/tokens/embedding"
TABLES = {
    "usual": ({}, P(None, "fsdp", "tensor"), P("tensor", "fsdp"), P(("data", "fsdp"))),
    "width over two axes": (
        {"embed": ["fsdp", "tensor"]},
        P(None, ("fsdp", "tensor"), None),  # the tensor axis is taken
        P("tensor", "fsdp"),
        P(("data", "fsdp")),
    ),
    "inner width over two axes": (
        {"mlp": ["tensor", "fsdp"], "embed": []},
        P(None, None, ("tensor", "fsdp")),
        P("tensor", None),
        P(("data", "fsdp")),
    ),
    "rows over everything": (
        {"batch": ["data", "fsdp", "tensor"], "vocab": []},
        P(None, "fsdp", "tensor"),
        P(None, "fsdp"),
        P(("data", "fsdp", "tensor")),
    ),
    "rows over one axis": (
        {"batch": ["data"]},
        P(None, "fsdp", "tensor"),
        P("tensor", "fsdp"),
        P("data"),
    ),
}


@functools.cache
def steps(name):
    """(abstract state, state after two steps, losses, batch) under a table."""
    mesh, rules = tiny.mesh(*FEWER.get(name, MESH)), make_rules(TABLES[name][0])
    program = tiny.program(MODEL, OBJECTIVE, OPTIMIZER, BATCH, over=mesh)
    return tiny.two_steps(program, rules, BATCH)


@pytest.mark.parametrize("name", TABLES)
def test_parameters_and_rows_lie_where_the_table_says(name):
    _, up, table, rows = TABLES[name]
    abstract, state, _, batch = steps(name)
    mesh = tiny.mesh(*FEWER.get(name, MESH))
    placed = lambda x, spec: x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim)
    for params in (flatten(abstract.params), flatten(state.params)):
        assert placed(params[UP], up) and placed(params[TABLE], table)
    assert placed(batch["tokens"], rows)


@pytest.mark.parametrize("name", list(TABLES)[1:])
def test_another_table_gives_the_same_numbers(name):
    _, usual, losses, _ = steps("usual")
    _, other, others, _ = steps(name)
    np.testing.assert_allclose(others, losses, rtol=2e-6)
    errors = tiny.relative_l2(jax.device_get(other.params), jax.device_get(usual.params))
    errors = {path: error for path, error in errors.items() if not path.endswith("/bias")}
    assert max(errors.values()) < 1e-4, errors  # Adam's first steps are signs of gradients


def test_one_function_is_traced_anew_under_another_table():
    """The same function and shapes: what JAX compiled for one table is not taken for another."""
    mesh = tiny.mesh(*MESH)
    where = jax.jit(lambda x: constrain(x, ("embed", "mlp")))
    x = np.ones((8, 8), np.float32)
    found = []
    for changes in ({}, {"embed": ["data"]}, {}):
        with use_layout(mesh, make_rules(changes)):
            found.append(where(x).sharding.spec)
    assert found == [P("fsdp", "tensor"), P("data", "tensor"), P("fsdp", "tensor")]


def test_a_batch_must_divide_over_the_axes_of_its_rows():
    mesh = tiny.mesh(*MESH)
    assert batch_shards(mesh) == 4
    with use_rules(make_rules({"batch": ["data", "fsdp", "tensor"]})):
        assert batch_shards(mesh) == 8
        with pytest.raises(UserError, match="use 8 or 16"):
            check_batch(12, 1, mesh)
    check_batch(12, 1, mesh)
    with use_rules(make_rules({"batch": []})):
        assert batch_shards(mesh) == 1


def test_an_axis_that_does_not_divide_over_two_is_refused_by_both():
    model = Model(tiny.gpt2(hidden_size=18, num_heads=2), OBJECTIVE.heads)
    mesh, rules = tiny.mesh(*MESH), make_rules({"embed": ["fsdp", "tensor"], "mlp": []})
    program = tiny.program(model, OBJECTIVE, OPTIMIZER, BATCH, over=mesh)
    with use_layout(mesh, rules):
        with pytest.raises(UserError, match=r"multiple of 4 \(mesh.fsdp x mesh.tensor\)"):
            Phases(program).at(0)


def test_tables_with_unknown_axes_are_refused():
    with pytest.raises(UserError, match="no parameter or activation") as error:
        MeshConfig(rules={"embd": ("fsdp",)})
    assert error.value.fix == "did you mean 'embed'?" and error.value.where == "rules"
    with pytest.raises(UserError, match="the mesh has no such axis") as error:
        MeshConfig(rules={"embed": ("fdsp",)})
    assert error.value.fix == "did you mean 'fsdp'?" and error.value.where == "rules.embed"
    with pytest.raises(UserError, match="can split an axis once"):
        MeshConfig(rules={"embed": ("fsdp", "fsdp")})


def test_a_table_is_read_from_yaml_and_its_mistakes_have_a_path():
    load = lambda rules: configuration.load(MeshConfig, [{"rules": rules}])
    assert load({"embed": ["fsdp", "tensor"], "mlp": []}).rules == {
        "embed": ("fsdp", "tensor"),
        "mlp": (),
    }
    for wrong in ({"embed": "fsdp"}, {"embed": ["fdsp"]}, {"embd": []}):
        with pytest.raises(UserError, match="rules"):
            load(wrong)


def test_a_run_and_what_opens_it_are_laid_out_by_its_table(byte_store, tmp_path):
    mesh = "mesh={data: 2, fsdp: 4, rules: {embed: [], mlp: [fsdp]}}"
    short = ("train.steps=2", "evaluation.split=null", "optimizer.schedule.warmup=0")
    config = toy.configured(byte_store, tmp_path / "run", "gpt2", mesh, *short)
    train_run(config, lambda text: None)
    opened = open_run(tmp_path / "run")
    up, tokens = (flatten(opened.params)[path].sharding for path in (UP, TABLE))
    assert up.is_equivalent_to(NamedSharding(opened.mesh, P(None, None, "fsdp")), 3)
    assert tokens.is_fully_replicated
    with opened.in_use():
        assert constrain(np.ones((4, 4)), ("embed", "mlp")).sharding.spec == P(None, "fsdp")
