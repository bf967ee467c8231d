"""Precision, recall and area under the curve against their definitions."""

import jax
import numpy as np
import pytest

from jaxssl.ops.ranking import area, separation


def numbers(score, positive, weights):
    found = jax.device_get(jax.jit(separation)(score, positive, weights))
    made = {name: float(a) / float(b) for name, (a, b) in found.items() if name != "auc"}
    return {**made, "auc": area(*found["auc"])}


@pytest.mark.parametrize("seed", range(3))
def test_they_are_counted_over_what_has_weight(seed):
    rng = np.random.default_rng(seed)
    positive = (rng.random((6, 50)) < 0.2).astype(np.float32)
    score = (rng.normal(size=(6, 50)) + positive).astype(np.float32)
    weights = (rng.random((6, 50)) < 0.8).astype(np.float32)
    found = numbers(score, positive, weights)
    s, p = score[weights > 0], positive[weights > 0]
    said = s > 0
    assert found["accuracy"] == pytest.approx((said == p).mean(), rel=1e-6)
    assert found["precision"] == pytest.approx(p[said].mean(), rel=1e-6)
    assert found["recall"] == pytest.approx(said[p > 0].mean(), rel=1e-6)
    above = s[p > 0][:, None] - s[p == 0]
    pairs = (above > 0).mean() + (above == 0).mean() / 2
    assert found["auc"] == pytest.approx(pairs, abs=2e-3)  # 1,024 bins


def test_the_area_is_exact_for_what_lies_in_bins_of_its_own():
    assert area([0, 0, 1], [1, 1, 0]) == 1.0
    assert area([1, 0, 0], [0, 1, 1]) == 0.0
    assert area([1, 1], [1, 1]) == 0.5
    assert np.isnan(area([0, 0], [1, 1]))
