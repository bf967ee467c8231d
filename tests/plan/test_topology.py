"""Slices by name: those that exist."""

import pytest

from jaxssl.core.errors import UserError
from jaxssl.plan.estimate import attention_seconds
from jaxssl.plan.topology import CHIPS, topology


@pytest.mark.parametrize(
    ("name", "chips"),
    [
        *[("v5p:4x4x4", 64), ("v5p:16x16x16", 4096), ("v5e:4x4", 16), ("v4:2x2x1", 4)],
        *[("v6e:2x4", 8), ("v5p:4x4x4*2", 128), ("v5e:4x4*16", 256)],
    ],
)
def test_slices_that_exist(name, chips):
    assert topology(name).num_chips == chips


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("v5x:4x4", "no such TPU"),
        ("trillium:4x4", "no such TPU"),
        ("v5p:3x4x4", "no such slice"),
        ("v5p:8x4x4", "no such slice"),
        ("v5p:16x16x32", "no such slice"),
        ("v5e:4x4x4", "no such slice"),
        ("v5e:32x32", "no such slice"),
        ("v5e", "no such slice"),
        ("v5e:4x4*0", "no such slice"),
        ("v5e:4x4x", "no such slice"),
        ("4x4", "no such TPU"),
    ],
)
def test_slices_that_do_not_are_refused(name, what):
    with pytest.raises(UserError, match=what) as error:
        topology(name)
    assert error.value.where == "topology" and error.value.got == name


def test_peaks_are_what_the_matrix_units_do_at_the_clock():
    units = {"v4": 8 * 128**2, "v5e": 4 * 128**2, "v5p": 8 * 128**2, "v6e": 4 * 256**2}
    for name, chip in CHIPS.items():
        assert chip.peak == pytest.approx(2 * units[name] * chip.clock, rel=2e-3)


def test_attention_takes_nine_products():
    chip = CHIPS["v5e"]
    seconds = attention_seconds(chip, rows=2, length=1024, heads=3, head_dim=64, seen=0.5)
    assert seconds == pytest.approx(9 * 2 * 2 * 3 * 64 * 1024**2 * 0.5 / chip.peak)
