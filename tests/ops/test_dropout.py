"""Dropout: its rate, its independence of everything but key and position, its scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy.stats import binomtest, chisquare

from jaxssl.ops.dropout import dropout, hash_bits, mix
from jaxssl.parallel.mesh import batch_sharding

SHAPE = (64, 16, 128)
ONES = np.ones(SHAPE, np.float32)


@functools.partial(jax.jit, static_argnums=1)
def dropped(x, rate, key):
    return dropout(x, rate, key)


def mask(seed, rate=0.5, x=ONES):
    return np.asarray(dropped(x, rate, jax.random.key(seed))) != 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_elements_drop_at_the_stated_rate(rate):
    kept = mask(0, rate)
    assert binomtest(int((~kept).sum()), kept.size, rate).pvalue > 1e-3
    # and evenly over every axis
    for axis in range(3):
        counts = kept.sum(axis=tuple(a for a in range(3) if a != axis))
        assert chisquare(counts).pvalue > 1e-4


def test_survivors_are_scaled_so_that_the_mean_stays():
    out = np.asarray(dropped(ONES, 0.25, jax.random.key(0)))
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    assert out.mean() == pytest.approx(1.0, abs=0.01)


def test_no_key_or_no_rate_returns_the_input_itself():
    assert dropout(ONES, 0.5, None) is ONES
    assert dropout(ONES, 0.0, jax.random.key(0)) is ONES


@pytest.mark.parametrize("sizes", [(2, 1, 1), (8, 1, 1), (2, 2, 2)], ids=str)
def test_the_mask_does_not_depend_on_the_mesh(sizes):
    mesh = tiny.mesh(*sizes)
    x = jax.device_put(ONES, batch_sharding(mesh))
    assert len(x.sharding.device_set) == np.prod(sizes)
    assert np.array_equal(mask(3, x=x), mask(3))


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 5), (8, 2, 3, 5)], ids=str)
def test_a_part_of_a_batch_is_dropped_as_in_the_whole(shape):
    x, key = np.ones(shape, np.float32), jax.random.key(4)
    drop = lambda x, rows: np.asarray(dropout(x, 0.5, key, rows))
    whole = drop(x, None)
    places = np.arange(8, dtype=np.uint32)
    assert np.array_equal(drop(x, places), whole)
    for first in range(4):  # every fourth row, as microbatches are
        assert np.array_equal(drop(x[first::4], places[first::4]), whole[first::4])
    assert not np.array_equal(drop(x[1::4], None), whole[1::4])
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 0.5, key, places[1::4])))(x[1::4])
    assert np.array_equal(gradient, whole[1::4])


def test_places_beyond_two_bits_of_a_word_are_still_apart():
    rows = np.array([0, 1, 2**20, 2**31 - 1], np.uint32)
    bits = np.asarray(hash_bits(jax.random.key(0), (4, 3, 64), rows)).reshape(4, -1)
    for a, b in [(0, 1), (0, 2), (1, 3), (2, 3)]:
        assert np.mean(bits[a] == bits[b]) < 0.01


def test_neighbouring_rows_and_keys_are_uncorrelated():
    kept = mask(0).reshape(-1, SHAPE[-1]).astype(float) - 0.5
    other = mask(1).reshape(kept.shape).astype(float) - 0.5
    folded = jax.random.fold_in(jax.random.key(0), 1)
    third = (np.asarray(dropped(ONES, 0.5, folded)) != 0).reshape(kept.shape) - 0.5
    bound = 4.5 / np.sqrt(kept.size)  # of standard deviations of a correlation of fair coins
    pairs = {
        "next row": (kept[1:], kept[:-1]),
        "next column": (kept[:, 1:], kept[:, :-1]),
        "next block": (kept[16:], kept[:-16]),
        "diagonal": (kept[1:, 1:], kept[:-1, :-1]),
        "other seed": (kept, other),
        "folded key": (kept, third),
    }
    for name, (a, b) in pairs.items():
        assert abs(4 * (a * b).mean()) < bound, name


def test_rows_share_no_stretch_of_bits():
    bits = np.asarray(jax.jit(lambda k: hash_bits(k, (512, 64)))(jax.random.key(0)))
    _, counts = np.unique(bits, return_counts=True)
    assert counts.max() <= 2  # 32,768 draws of 2**32: a repeat is rare, three do not happen


def test_every_bit_of_the_hash_is_fair():
    bits = np.asarray(jax.jit(lambda k: hash_bits(k, (512, 128)))(jax.random.key(5)))
    for bit in range(32):
        ones = int(((bits >> bit) & 1).sum())
        assert binomtest(ones, bits.size, 0.5).pvalue > 1e-5, bit


def test_the_mixer_is_a_bijection_where_checked():
    x = jnp.arange(1 << 16, dtype=jnp.uint32) * jnp.uint32(65537)
    assert len(np.unique(np.asarray(mix(x)))) == 1 << 16


def test_gradients_pass_where_values_pass():
    key = jax.random.key(0)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(dropout(x, 0.5, key))))(ONES)
    assert np.array_equal(np.asarray(gradient), np.asarray(dropped(ONES, 0.5, key)))
