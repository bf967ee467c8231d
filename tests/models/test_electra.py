"""Embeddings of a width of their own, and what reads them; the discriminator's head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.boundary_head import SpanBoundaryHead
from jaxssl.models.heads import MASKED_LM, REPLACED_TOKENS
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.models.transformer import Embeddings
from jaxssl.optim.layerwise import depth_factors
from jaxssl.optim.weight_decay import NO_DECAY, decay_mask

E, H, V = 8, tiny.SHAPE["hidden_size"], tiny.VOCAB
BATCH = tiny.rows([[d] for d in tiny.random_documents([12, 7])])


def shapes(config, *heads):
    flat = flatten(unbox(Model(config, heads).abstract()))
    return {name: leaf.shape for name, leaf in flat.items()}


def test_tables_and_their_norm_are_narrow_and_a_projection_follows():
    found = shapes(tiny.electra())
    parts = {
        name.removeprefix("embeddings/"): shape
        for name, shape in found.items()
        if name.startswith("embeddings/")
    }
    assert parts == {
        "tokens/embedding": (V, E),
        "positions/embedding": (32, E),
        "token_types/embedding": (2, E),
        "norm/scale": (E,),
        "norm/bias": (E,),
        "projection/kernel": (E, H),
        "projection/bias": (H,),
    }
    as_wide = shapes(tiny.electra(embedding_size=H))
    assert as_wide == shapes(tiny.bert(activation="gelu", pooler=False))


def test_dropout_is_between_the_norm_and_the_projection():
    """A projection that copies the narrow embedding twice copies its zeros, too."""
    model = Model(tiny.electra(dropout=0.5))
    params = tiny.random_params(model)["embeddings"]
    params["projection"] = {"kernel": np.tile(np.eye(E, dtype=np.float32), 2), "bias": np.zeros(H)}
    module, rngs = Embeddings(model.config, model.precision), {"dropout": jax.random.key(0)}
    x = np.asarray(module.apply({"params": params}, BATCH, rngs=rngs))
    assert np.array_equal(x[..., :E], x[..., E:])
    assert 0.3 < np.mean(x == 0) < 0.7


def test_the_projection_decays_and_has_the_rate_of_the_embeddings():
    params = unbox(Model(tiny.electra()).abstract())
    decays = flatten(decay_mask(NO_DECAY, params))
    assert decays["embeddings/projection/kernel"] and not decays["embeddings/projection/bias"]
    rates = flatten(depth_factors(params, 0.5, {"encoder": 2}))
    assert rates["embeddings/projection/kernel"] == rates["embeddings/tokens/embedding"] == 0.125


@pytest.mark.parametrize("head", [MASKED_LM, SpanBoundaryHead(longest=3, position_size=5)])
def test_heads_over_the_table_come_down_to_its_width(head):
    config = tiny.electra()
    model = Model(config, (head,))
    kernels = [shape for name, shape in shapes(config, head).items() if is_kernel(name, head.name)]
    assert {kernel[-1] for kernel in kernels} <= {H, E} and (H, E) in kernels
    products = sum(map(np.prod, kernels)) + E * V
    assert head.products(config) == products
    logits = jax.eval_shape(
        lambda params, x: model.head(params, head.name, head.example(x)),
        tiny.random_params(model),
        jnp.ones((2, 3, H)),
    )
    assert logits.shape == (2, 3, V)


def is_kernel(name, head):
    return name.startswith(f"{head}/") and name.endswith("kernel")


def test_replaced_tokens_are_scored_after_a_dense_layer_with_the_exact_gelu():
    model = Model(tiny.electra(), (REPLACED_TOKENS,))
    params = tiny.random_params(model)
    own = {name: x for name, x in flatten(params).items() if name.startswith("replaced_tokens/")}
    assert {name.removeprefix("replaced_tokens/"): x.shape for name, x in own.items()} == {
        "transform/kernel": (H, H),
        "transform/bias": (H,),
        "output/kernel": (H, 1),
        "output/bias": (1,),
    }
    x = np.random.default_rng(0).standard_normal((2, 3, H)).astype(np.float32)
    dense, output = (params["replaced_tokens"][part] for part in ("transform", "output"))
    hidden = jax.nn.gelu(x @ dense["kernel"] + dense["bias"], approximate=False)
    want = hidden @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(model.head(params, "replaced_tokens", x), want, rtol=1e-5, atol=1e-5)


def test_embeddings_of_no_width_are_refused():
    with pytest.raises(UserError, match="at least 1"):
        tiny.electra(embedding_size=0)
