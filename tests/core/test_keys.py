"""Keys mean the same under every default of JAX, and no two streams share one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.core.keys import dropout_key, example_keys, init_key
from jaxssl.ops.dropout import dropout

BATCH = {
    "epoch": np.array([0, 0, 1], np.int32),
    "example_id": np.array([[0, 1], [1, 0], [0, 1]], np.uint32),
}


def words(keys) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()]


def streams(seed):
    rows = words(example_keys(seed, BATCH))
    steps = [word for step in (0, 1, 2) for word in words(dropout_key(seed, step))]
    return [*rows, *steps, *words(init_key(seed))]


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_keys_and_dropout_do_not_depend_on_the_default_generator(implementation):
    dropped = lambda: np.asarray(dropout(jnp.ones((4, 64)), 0.5, dropout_key(3, 5)))
    wanted, wanted_mask = streams(3), dropped()
    with jax.default_prng_impl(implementation):
        assert streams(3) == wanted
        np.testing.assert_array_equal(dropped(), wanted_mask)


def test_every_row_step_and_purpose_has_a_key_of_its_own():
    found = [word for seed in (0, 1) for word in streams(seed)]
    assert len(set(found)) == len(found) == 14
