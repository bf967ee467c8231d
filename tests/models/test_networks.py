"""Several networks in one tree of parameters: what each has of its own, and what it borrows."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxssl.core.names import flatten
from jaxssl.models.heads import MASKED_LM
from jaxssl.models.model import Model
from jaxssl.models.network import Tie

TABLE = "embeddings/tokens/embedding"
ROWS = tiny.rows([[d] for d in tiny.random_documents([9, 7, 5, 8])], length=16, count=4)


def with_other(name, ties=(), layers=2, **changes):
    config = tiny.bert(pooler=False, **changes)
    other = tiny.bert(pooler=False, **{**changes, "num_layers": layers})
    return Model(config, (), others=(Model(other, (MASKED_LM,), root=name, ties=ties),))


def test_a_network_draws_dropout_masks_of_its_own():
    model = with_other("teacher", dropout=0.5)
    alike = tiny.random_params(model)
    alike = {**alike, "teacher": {name: x for name, x in alike.items() if name != "teacher"}}
    key = jax.random.key(0)
    teacher = model.network("teacher")
    first, second = (net.encode(alike, ROWS, None) for net in (model, teacher))
    np.testing.assert_array_equal(first, second)
    first, second = (net.encode(alike, ROWS, key) for net in (model, teacher))
    assert float(jnp.mean(jnp.abs(first - second))) > 0.1


def test_a_cache_has_the_shapes_of_its_own_network():
    cache = with_other("generator", layers=1).network("generator").empty_cache(2, 8)
    assert {x.shape[0] for x in jax.tree.leaves(cache)} == {1}


def test_a_borrowed_parameter_is_not_counted_twice():
    model = with_other("generator", ties=(Tie("embeddings/tokens", "embeddings/tokens"),))
    own = model.network("generator")
    assert TABLE not in flatten(own.abstract())
    params = tiny.random_params(model)
    assert own.own(params)["embeddings"]["tokens"]["embedding"] is flatten(params)[TABLE]
