"""L2-SP and mixout: against autodiff, against means over many masks, and against no anchor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.checkpoint.ledger import Entry
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.adapters import Attached
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.fusion import Fusion
from jaxssl.transfer.regularize import NONE, Regularization, mix_out, penalty_gradient
from jaxssl.transfer.start import Start

RNG = np.random.default_rng(0)
PARAMS = {
    "encoder": {"kernel": RNG.standard_normal((6, 5)), "bias": RNG.standard_normal(5)},
    "head": {"kernel": RNG.standard_normal((5, 2))},
}
PARAMS = jax.tree.map(jnp.float32, PARAMS)
ANCHORS = {"encoder": jax.tree.map(lambda x: x + 0.5, PARAMS["encoder"])}


def test_the_penalty_and_its_gradient_are_those_of_its_formula():
    config = Regularization(l2_sp=0.3, l2_sp_fresh=0.1)

    def formula(params):
        body = sum(
            jnp.sum((params["encoder"][k] - ANCHORS["encoder"][k]) ** 2) for k in ("kernel", "bias")
        )
        return 0.15 * body + 0.05 * jnp.sum(params["head"]["kernel"] ** 2)

    penalty, gradient = penalty_gradient(config, PARAMS, ANCHORS)
    assert penalty == pytest.approx(float(formula(PARAMS)), rel=1e-6)
    wanted = flatten(jax.grad(formula)(PARAMS))
    for name, value in flatten(gradient).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)


def test_the_values_of_a_fusion_are_drawn_towards_the_identity_beside_other_terms():
    drawn = {name: RNG.standard_normal((2, 3, 3)) for name in ("both_value", "both_key", "a_value")}
    tree = {"adapters": {"encoder": {"layers": {"attention": drawn}}}, **PARAMS}
    params = jax.tree.map(jnp.float32, tree)
    parts = {"a": Bottleneck(), "b": Bottleneck()}
    fused = Fusion(of=("a", "b"), regularization=0.02).joined(parts)
    config = Regularization(l2_sp=0.3, l2_sp_fresh=0.1)

    def own(params):
        value = params["adapters"]["encoder"]["layers"]["attention"]["both_value"]
        return 0.02 * jnp.sum((value - jnp.eye(3)) ** 2)

    plain = penalty_gradient(config, params, ANCHORS)
    given = [
        penalty_gradient(x, params, ANCHORS, (Attached("both", fused),)) for x in (NONE, config)
    ]
    assert given[0][0] == pytest.approx(float(own(params)), rel=1e-6)
    assert given[1][0] == pytest.approx(float(own(params) + plain[0]), rel=1e-6)
    for before, (_, gradient) in zip((jax.tree.map(jnp.zeros_like, params), plain[1]), given):
        wanted = jax.tree.map(jnp.add, jax.grad(own)(params), before)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), gradient, wanted)


def test_there_is_no_penalty_where_nothing_is_drawn():
    parts = {"a": Bottleneck(), "b": Bottleneck()}
    plain = Attached("both", Fusion(of=("a", "b"), regularization=0).joined(parts))
    params = {"adapters": {"encoder": {"both_value": jnp.ones((3, 3))}}}
    assert penalty_gradient(NONE, params, {}, (plain,)) is None
    assert penalty_gradient(NONE, params, {}) is None


@pytest.mark.parametrize("name", ["l2_sp", "l2_sp_fresh", "mixout"])
def test_each_needs_to_know_what_was_restored(name):
    """Without anchors, all parameters would count as fresh ones."""
    assert Regularization(**{name: 0.1}).needs_anchors
    assert not Regularization().needs_anchors


def test_layers_that_start_fresh_have_no_source():
    entry = Entry("restored", "encoder/layers/x/kernel", "encoder/layers/x/kernel", (4, 2))
    start = Start((entry,), {"encoder": 3})
    assert start.has_source("encoder/layers[0:3]/x/kernel")
    assert not start.has_source("encoder/layers[3:4]/x/kernel")


def test_mixout_takes_its_share_from_the_start_and_keeps_the_mean():
    rate, keys = 0.7, jax.random.split(jax.random.key(0), 4000)
    mixed = jax.jit(jax.vmap(lambda key: mix_out(PARAMS, ANCHORS, rate, key)["encoder"]["kernel"]))(
        keys
    )
    w, u = PARAMS["encoder"]["kernel"], ANCHORS["encoder"]["kernel"]
    is_start = np.isclose(mixed, (u - rate * u) / (1 - rate), atol=1e-5)
    is_own = np.isclose(mixed, (w - rate * u) / (1 - rate), atol=1e-5)
    assert (is_start ^ is_own).all()
    assert is_start.mean() == pytest.approx(rate, abs=0.005)
    np.testing.assert_allclose(mixed.mean(0), w, atol=0.1)


def test_mixout_leaves_biases_and_fresh_kernels_alone():
    mixed = mix_out(PARAMS, ANCHORS, 0.9, jax.random.key(1))
    assert np.array_equal(mixed["encoder"]["bias"], PARAMS["encoder"]["bias"])
    assert np.array_equal(mixed["head"]["kernel"], PARAMS["head"]["kernel"])
    assert not np.array_equal(mixed["encoder"]["kernel"], PARAMS["encoder"]["kernel"])


def test_the_gradient_flows_through_what_was_not_taken():
    key, rate = jax.random.key(2), 0.5
    kernel = lambda p: mix_out(p, ANCHORS, rate, key)["encoder"]["kernel"]
    gradient = jax.grad(lambda p: kernel(p).sum())(PARAMS)["encoder"]["kernel"]
    own = np.isclose(
        kernel(PARAMS),
        (PARAMS["encoder"]["kernel"] - rate * ANCHORS["encoder"]["kernel"]) / (1 - rate),
    )
    np.testing.assert_allclose(gradient, np.where(own, 1 / (1 - rate), 0.0), rtol=1e-6)


@pytest.mark.parametrize("field", ["l2_sp", "l2_sp_fresh", "mixout"])
def test_what_is_out_of_range_is_refused(field):
    for value in (-0.1, float("nan"), *((1.0,) if field == "mixout" else ())):
        with pytest.raises(UserError, match=field):
            Regularization(**{field: value})
