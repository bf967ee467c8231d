"""Rows for new pieces and positions, by their formulas."""

import jax
import numpy as np
import pytest

from jaxssl.transfer.growth import NewPieces, with_new_pieces, with_new_positions


@pytest.mark.parametrize(("axis", "shape"), [(0, (9, 3)), (1, (3, 9)), (0, (9,))])
@pytest.mark.parametrize("stored_rows", [6, 8])
def test_a_new_piece_begins_as_the_mean_of_the_pieces_before(axis, shape, stored_rows):
    """Of 9 rows 6 are of old pieces and 2 of new ones; a table may have had rows to spare."""
    rng = np.random.default_rng(0)
    fresh = rng.normal(size=shape).astype(np.float32)
    stored = rng.normal(size=shape).astype(np.float32).take(range(stored_rows), axis)
    pieces = NewPieces(6, ((1, 4), (2, 2, 5)))
    made = jax.jit(lambda *x: with_new_pieces(*x, pieces, axis))(stored, fresh)
    rows = np.moveaxis(np.asarray(made), axis, 0)
    old, new = np.moveaxis(stored, axis, 0), np.moveaxis(fresh, axis, 0)
    np.testing.assert_array_equal(rows[:6], old[:6])
    np.testing.assert_array_equal(rows[6], (old[1] + old[4]) / np.float32(2))
    np.testing.assert_array_equal(rows[7], (old[2] + old[2] + old[5]) / np.float32(3))
    np.testing.assert_array_equal(rows[8], new[8])


def test_an_id_that_is_not_used_begins_fresh():
    stored, fresh = np.ones((2, 1), np.float32), np.zeros((4, 1), np.float32)
    made = with_new_pieces(stored, fresh, NewPieces(2, ((), (0, 1))))
    assert np.asarray(made)[:, 0].tolist() == [1, 1, 0, 1]


def test_means_are_of_float32_whatever_the_table_is():
    stored = np.array([[1.0], [1.0], [2.0**-7]], np.float32)
    table = jax.numpy.asarray(stored, "bfloat16")
    fresh = jax.numpy.zeros((4, 1), "bfloat16")
    made = with_new_pieces(table, fresh, NewPieces(3, ((0, 1, 2),)))
    expected = jax.numpy.asarray(stored.sum() / np.float32(3), "bfloat16")
    assert made.dtype == "bfloat16" and made[3, 0] == expected


@pytest.mark.parametrize("offset", [0, 2])
def test_positions_are_repeated(offset):
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(offset + 4, 3)).astype(np.float32)
    made = with_new_positions(stored, np.zeros((offset + 11, 3)), offset, "tile")
    np.testing.assert_array_equal(made[: offset + 4], stored)
    for place in range(11):
        np.testing.assert_array_equal(made[offset + place], stored[offset + place % 4])


@pytest.mark.parametrize("offset", [0, 2])
def test_positions_are_drawn_apart(offset):
    rng = np.random.default_rng(0)
    stored = rng.normal(size=(offset + 4, 3)).astype(np.float32)
    made = with_new_positions(stored, np.zeros((offset + 10, 3)), offset, "stretch")
    np.testing.assert_array_equal(made[:offset], stored[:offset])
    for column in range(3):
        there = stored[offset:, column].astype(np.float64)
        expected = np.interp(np.arange(10) * 3 / 9, np.arange(4), there)
        np.testing.assert_allclose(made[offset:, column], expected, atol=1e-6)
    # Positions 0, 3, 6 and 9 of the ten are the four that were there.
    np.testing.assert_allclose(made[offset::3], stored[offset:], atol=1e-6)
