"""Learning rates that differ from parameter to parameter."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Constant

PARAMS = {"head": {"kernel": jnp.ones((2, 3))}, "body": {"kernel": jnp.ones((4,))}}
FACTORS = {"head/kernel": 30.0, "body/kernel": 0.5}


def test_updates_and_weight_decay_are_multiplied_and_no_state_is_added():
    config = dict(learning_rate=0.1, schedule=Constant(), clip_norm=None, weight_decay=0.3)
    plain, _ = make_optimizer(AdamW(**config), 10, 1)
    scaled, _ = make_optimizer(AdamW(**config), 10, 1, factor_of=FACTORS.__getitem__)
    grads = jax.tree.map(lambda x: 0.5 * x, PARAMS)
    first, _ = plain.update(grads, plain.init(PARAMS), PARAMS)
    second, _ = scaled.update(grads, scaled.init(PARAMS), PARAMS)
    for name in PARAMS:
        want = first[name]["kernel"] * FACTORS[f"{name}/kernel"]
        np.testing.assert_allclose(second[name]["kernel"], want, rtol=1e-6)
        assert np.all(want != 0)
    count = len(jax.tree.leaves(plain.init(PARAMS)))
    assert len(jax.tree.leaves(scaled.init(PARAMS))) == count
