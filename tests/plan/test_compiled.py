"""A training step compiled for a slice of TPUs that is not there, by libtpu."""

import os

import pytest

from benchmarks import pods
from benchmarks.steps import made_stores

LIBTPU = os.environ.get("JAXSSL_LIBTPU", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LIBTPU, reason="JAXSSL_LIBTPU says no place of libtpu: make test-slow"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made_stores(tmp_path_factory.mktemp("stores"))


def test_a_small_step_on_64_chips_gathers_in_bfloat16_and_scatters(store, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([LIBTPU, os.environ.get("PYTHONPATH", "")]))
    for name in ("JAX_PLATFORMS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    made = pods.compiled("tiny", store)
    layers = 2 * (4 * 256 * 256 + 3 * 256 * 512)
    tables = 2 * 4096 * 256
    share = 63 / 64  # that a chip does not hold itself
    assert made["kernels"] > 0, "attention is splash"
    # Kernels of layers are gathered forward and, computed again, backward.
    expected = 2 * share * (2 * layers + tables)
    assert made["sent all-gather"] == pytest.approx(expected, rel=0.35)
    assert made["temporaries"] < 64e6 and made["sent"] < 35e6
