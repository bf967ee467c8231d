"""Single parameters laid out otherwise: where they lie, the same numbers, and mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import toy
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.heads import MASKED_LM
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.parallel.mesh import MeshConfig, batch_sharding
from jaxssl.parallel.rules import make_rules, use_layout
from jaxssl.program.gradients import make_loss
from jaxssl.program.placement import check_patterns
from jaxssl.program.state import abstract_params
from jaxssl.run.open import open_run
from jaxssl.run.train import train_run

OBJECTIVE = CausalLm(chunk=8)
MODEL = Model(tiny.gpt2(), OBJECTIVE.heads)
OPTIMIZER, _ = make_optimizer(AdamW(), 100, 1)
BATCH = tiny.rows([[d] for d in tiny.random_documents([16, 9, 5, 12, 16, 3, 7, 16])])
TABLE, UP = "embeddings/tokens/embedding", "decoder/layers/feed_forward/up/kernel"
DOWN, QUERY = (f"decoder/layers/{name}/kernel" for name in ("feed_forward/down", "attention/query"))
ASKED = {
    "decoder/layers/attention/output/kernel": {"layers": ["data"], "heads": []},
    "**/embedding": {"vocab": [], "embed": ["fsdp"]},
    "**/up/kernel": {"embed": [], "mlp": ["fsdp", "tensor"]},
    "**/{up,down}/kernel": {"embed": [], "mlp": ["tensor"]},  # the first that matches wins
}
LIE = {
    "decoder/layers/attention/output/kernel": P("data", None, None, "fsdp"),
    TABLE: P(None, "fsdp"),
    UP: P(None, None, ("fsdp", "tensor")),
    DOWN: P(None, "tensor", None),
    QUERY: P(None, "fsdp", "tensor", None),  # by the usual table
}


def lies(x, mesh, spec):
    return x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim)


@functools.cache
def steps(*sizes, asked=False):
    """(the state after two steps, the losses)."""
    mesh, rules = tiny.mesh(*sizes), make_rules({}, ASKED if asked else {})
    program = tiny.program(MODEL, OBJECTIVE, OPTIMIZER, BATCH, over=mesh)
    _, state, losses, _ = tiny.two_steps(program, rules, BATCH)
    return state, losses


def test_parameters_and_moments_lie_as_asked_after_a_step():
    (state, _), mesh = steps(2, 2, 2, asked=True), tiny.mesh(2, 2, 2)
    params = flatten(state.params)
    (adam,) = (s for s in state.opt_state if hasattr(s, "mu"))
    for path, spec in LIE.items():
        for x in (params[path], flatten(adam.mu)[path], flatten(adam.nu)[path]):
            assert lies(x, mesh, spec), (path, x.sharding.spec)


def test_what_is_computed_is_that_of_one_device():
    state, losses = steps(2, 2, 2, asked=True)
    one, alone = steps(1, 1, 1)
    np.testing.assert_allclose(losses, alone, rtol=2e-6)
    errors = tiny.relative_l2(jax.device_get(state.params), jax.device_get(one.params))
    errors = {path: error for path, error in errors.items() if not path.endswith("/bias")}
    assert max(errors.values()) < 1e-4, errors  # Adam's first steps are signs of gradients


@pytest.mark.parametrize(
    ("sizes", "asked", "spec"),
    [
        ((1, 4, 2), {"embed": [], "mlp": ["tensor", "fsdp"]}, P(None, None, ("tensor", "fsdp"))),
        ((2, 4, 1), {"embed": [], "mlp": ["fsdp"]}, P(None, None, "fsdp")),  # summed by hand
        ((2, 4, 1), {"embed": ["data"]}, P(None, "data", None)),  # summed by hand
    ],
)
def test_gradients_lie_as_asked_before_the_optimizer_has_them(sizes, asked, spec):
    mesh, rules = tiny.mesh(*sizes), make_rules({}, {UP: asked})
    params, batch = tiny.random_params(MODEL), tiny.corrupted(OBJECTIVE, BATCH)
    value, _, plain = jax.jit(make_loss(MODEL, OBJECTIVE))(params, batch, None)
    with use_layout(mesh, rules):
        places = jax.tree.map(lambda x: NamedSharding(mesh, P()), params)
        params = jax.device_put(params, places)
        rows = jax.device_put(batch, batch_sharding(mesh))
        got, _, grads = jax.jit(make_loss(MODEL, OBJECTIVE))(params, rows, None)
    assert lies(flatten(grads)[UP], mesh, spec), flatten(grads)[UP].sharding
    assert float(got) == pytest.approx(float(value), rel=2e-6)
    errors = tiny.relative_l2(jax.device_get(grads), jax.device_get(plain))
    assert max(e for path, e in errors.items() if not path.endswith("key/bias")) < 3e-6


def test_a_network_beside_the_main_one_is_known_by_its_name():
    other = Model(tiny.bert(pooler=False), (MASKED_LM,), root="generator")
    model = Model(tiny.bert(pooler=False), (), others=(other,))
    up = "encoder/layers/feed_forward/up/kernel"
    mesh, rules = tiny.mesh(1, 4, 2), make_rules({}, {f"generator/{up}": {"embed": [], "mlp": []}})
    params = tiny.random_params(model)

    def loss(params):
        both = (net.encode(params, BATCH, None) for net in (model, model.network("generator")))
        return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in both)

    with use_layout(mesh, rules):
        names = flatten(abstract_params(model))
        assert [str(x) for x in names[f"generator/{up}"].names] == ["layers", "embed", "mlp"]
        grads = flatten(jax.jit(jax.grad(loss))(params))
    assert lies(grads[up], mesh, P(None, "fsdp", "tensor"))
    assert lies(grads[f"generator/{up}"], mesh, P())


def test_segments_of_a_stack_are_known_by_its_name():
    model = MODEL.with_segments({"decoder": (1, 1)})
    with use_layout(tiny.mesh(1, 4, 2), make_rules({}, {UP: {"mlp": []}})):
        boxed = flatten(abstract_params(model))
    cut = [path for path in boxed if path.endswith("up/kernel")]
    assert len(cut) == 2
    for path in cut:
        assert [getattr(x, "axes", None) for x in boxed[path].names] == [None, None, ()]
    assert unbox(boxed[cut[0]]).shape == (1, 16, 32)


def refused(parameters):
    with pytest.raises(UserError) as error:
        check_patterns(MeshConfig(parameters=parameters).parameters, MODEL.abstract())
    return error.value


def test_patterns_that_change_nothing_are_refused():
    check_patterns(ASKED, MODEL.abstract())
    error = refused({"embeddings/token/embedding": {"vocab": ()}})
    assert "matches no parameter" in error.what and error.where == "mesh.parameters"
    assert error.fix == f"did you mean {TABLE!r}?"
    error = refused({"**/up/kernel": {"vocab": ()}})
    assert "no parameter that the pattern matches has such an axis" in error.what
    assert error.expected == "one of layers, embed, mlp" and error.got == "vocab"


def test_mistakes_in_a_layout_have_a_path():
    load = lambda given: configuration.load(MeshConfig, [{"parameters": given}])
    assert load({"**": {"embed": ["fsdp"], "vocab": []}}).layout().parameters == (
        ("**", (("embed", ("fsdp",)), ("vocab", ()))),
    )
    for wrong, where in [
        ({"**": {"embed": ["fdsp"]}}, "parameters.**.embed"),
        ({"**": {"embd": []}}, "parameters.**"),
        ({"**": {"embed": "fsdp"}}, "parameters.**.embed"),
    ]:
        with pytest.raises(UserError) as error:
            load(wrong)
        assert error.value.where == where


def test_a_run_and_what_opens_it_are_laid_out_as_asked(byte_store, tmp_path):
    mesh = f"mesh={{preset: fsdp, parameters: {{{TABLE}: {{embed: [], vocab: [fsdp]}}}}}}"
    short = ("train.steps=2", "evaluation.split=null", "optimizer.schedule.warmup=0")
    config = toy.configured(byte_store, tmp_path / "run", "gpt2", mesh, *short)
    said = []
    train_run(config, said.append)
    assert any("gradients are summed over 8 shards of the batch" in line for line in said)
    opened = open_run(tmp_path / "run")
    assert lies(flatten(opened.params)[TABLE], opened.mesh, P("fsdp", None))
    other = open_run(tmp_path / "run", layers=["mesh.parameters={'**': {embed: []}}"])
    assert flatten(other.params)[UP].sharding.is_fully_replicated
    with pytest.raises(UserError, match="matches no parameter"):
        open_run(tmp_path / "run", layers=["mesh.parameters={'**/up/kernels': {embed: []}}"])
