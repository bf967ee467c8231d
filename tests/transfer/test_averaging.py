"""Averages against formulas, and against the functions of the library PEFT."""

import numpy as np
import pytest

from jaxssl.core.errors import UserError
from jaxssl.transfer.averaging import Arithmetic, Dare, Slerp, Ties, Uniform, elected, largest

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((7, 5)).astype(np.float32)
TENSORS = [BASE + RNG.standard_normal(BASE.shape).astype(np.float32) for _ in range(3)]
CHANGES = [x - BASE for x in TENSORS]
WEIGHTS = [0.5, 2.0, 1.0]


def test_means_and_sums_are_those_of_the_formulas():
    mean = Uniform().combine("x", TENSORS, WEIGHTS, BASE)
    np.testing.assert_allclose(mean, np.average(TENSORS, axis=0, weights=WEIGHTS), rtol=1e-5)
    added = Arithmetic().combine("x", TENSORS, [0.4, -0.3, 0.2], BASE)
    want = BASE + 0.4 * CHANGES[0] - 0.3 * CHANGES[1] + 0.2 * CHANGES[2]
    np.testing.assert_allclose(added, want, rtol=1e-4, atol=1e-6)
    same = Arithmetic().combine("x", TENSORS[:1], [1.0], BASE)
    np.testing.assert_allclose(same, TENSORS[0], atol=1e-6)


@pytest.mark.parametrize("density", [0.2, 0.55, 1.0])
def test_ties_is_that_of_peft(density):
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    merging = pytest.importorskip("peft.utils.merge_utils", reason="the reference is peft")
    given = [torch.tensor(x) for x in CHANGES]
    want = merging.ties(given, torch.tensor(WEIGHTS), density, "total").numpy()
    got = Ties(density=density).combine("x", TENSORS, WEIGHTS, BASE) - BASE
    np.testing.assert_allclose(got, want, atol=2e-6)
    trimmed = largest(CHANGES[0], density)
    np.testing.assert_array_equal(trimmed, merging.prune(given[0], density, "magnitude").numpy())


def test_of_dare_the_sum_is_right_on_average_and_elected_as_ties_elects():
    zeros = np.zeros((300, 300), np.float32)
    tensors = [np.full_like(zeros, 1.0), np.full_like(zeros, 3.0)]
    made = Dare(density=0.25, seed=4).combine("x", tensors, [1.0, 0.5], zeros)
    values, counts = np.unique(made, return_counts=True)
    np.testing.assert_allclose(values, [0, 4, 6, 10])
    want = np.array([0.75 * 0.75, 0.25 * 0.75, 0.75 * 0.25, 0.0625]) * zeros.size
    assert np.all(np.abs(counts - want) < 5 * np.sqrt(want))
    again = Dare(density=0.25, seed=4).combine("x", tensors, [1.0, 0.5], zeros)
    other = Dare(density=0.25, seed=5).combine("x", tensors, [1.0, 0.5], zeros)
    assert np.array_equal(made, again) and not np.array_equal(made, other)
    whole = Dare(density=1.0, elect=True).combine("x", TENSORS, WEIGHTS, BASE) - BASE
    np.testing.assert_allclose(whole, elected(CHANGES, WEIGHTS), atol=1e-6)


def test_an_arc_keeps_lengths_where_a_line_does_not():
    first, second = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    for at in (0.0, 0.25, 0.5, 1.0):
        made = Slerp(at=at).combine("x", [first, second], [1, 1], None)
        angle = at * np.pi / 2
        np.testing.assert_allclose(made, [2 * np.cos(angle), 2 * np.sin(angle)], atol=1e-12)
    line = Slerp(at=0.25).combine("x", [first, 3 * first], [1, 1], None)
    np.testing.assert_allclose(line, 1.5 * first)


def test_a_head_has_no_start_and_is_the_mean():
    for method in (Arithmetic(), Ties(), Dare()):
        made = method.combine("classify/output/kernel", TENSORS, WEIGHTS, None)
        np.testing.assert_allclose(
            made, np.average(TENSORS, axis=0, weights=WEIGHTS), rtol=1e-5, atol=1e-6
        )


def test_settings_out_of_range_are_refused():
    for make in (lambda: Ties(density=0.0), lambda: Dare(density=1.5), lambda: Slerp(at=-0.1)):
        with pytest.raises(UserError):
            make()
    with pytest.raises(UserError, match="an arc is between two"):
        Slerp().check(3)
