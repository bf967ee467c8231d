"""Groups of parameters with moments and counts of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxssl.core.names import join
from jaxssl.optim.groups import by_group
from jaxssl.train.phase import carried_over

GROUPS = {"head/kernel": "stage0", "top/kernel": "stage1", "top/bias": "stage1"}
ADAM = optax.scale_by_adam(b1=0.9, b2=0.99)
GROUPED = by_group(ADAM, GROUPS.__getitem__)
RNG = np.random.default_rng(0)


def tree(*names):
    parts = {"head": {"kernel": (3, 2)}, "top": {"kernel": (3, 3), "bias": (3,)}}
    return {
        n: jax.tree.map(
            lambda s: jnp.float32(RNG.standard_normal(s)),
            parts[n],
            is_leaf=lambda x: isinstance(x, tuple),
        )
        for n in names
    }


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_group_that_begins_later_is_corrected_by_its_own_count():
    """The head goes on as if it were alone; what comes later moves as in a run of its own."""
    early, late = [tree("head") for _ in range(3)], [tree("head", "top") for _ in range(2)]
    state = GROUPED.init(early[0])
    alone = ADAM.init(early[0])
    for gradient in early:
        moved, state = GROUPED.update(gradient, state)
        wanted, alone = ADAM.update(gradient, alone)
        same(moved, wanted)
    state = carried_over(state, GROUPED.init(late[0]))
    fresh = ADAM.init({"top": late[0]["top"]})
    for gradient in late:
        moved, state = GROUPED.update(gradient, state)
        head, alone = ADAM.update({"head": gradient["head"]}, alone)
        top, fresh = ADAM.update({"top": gradient["top"]}, fresh)
        same(moved, join(head, top))
    assert int(state["stage0"].count) == 5 and int(state["stage1"].count) == 2


def test_what_is_carried_over_keeps_its_bits_and_the_rest_is_new():
    first = GROUPED.update(tree("head"), GROUPED.init(tree("head")))[1]
    grown = carried_over(first, GROUPED.init(tree("head", "top")))
    same(grown["stage0"].mu, first["stage0"].mu)
    assert not np.any(grown["stage1"].mu["top"]["kernel"])
