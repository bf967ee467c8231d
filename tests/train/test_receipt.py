"""The receipt where full fine-tuning would not fit the device (a step's costs: test_unfreezing)."""

import jax
import pytest

from jaxssl.train import receipt
from jaxssl.train.receipt import Cost, Receipt


class Lowered:
    """A program whose compiler finds something wrong."""

    def __init__(self, message):
        self.message = message

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


TOO_LARGE = Lowered("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17G of 16G.")


def test_full_fine_tuning_may_not_fit_but_the_run_itself_must():
    assert receipt._memory(TOO_LARGE, may_not_fit=True) is None
    with pytest.raises(jax.errors.JaxRuntimeError, match="hbm"):
        receipt._memory(TOO_LARGE, may_not_fit=False)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        receipt._memory(Lowered("INTERNAL: a bug"), may_not_fit=True)


def test_the_table_may_be_of_the_run_alone():
    own = Cost(10, 80, 0, 1e6, 2048)
    heading, *lines = receipt.table(Receipt(100, 8, 24, own, None, "one device", None))
    assert heading.split() == ["this", "run"]
    assert [line.split()[-1] for line in lines] == ["10", "80", "0", "1,000,000", "2,048"]


def test_the_table_says_what_does_not_fit():
    own, full = Cost(10, 80, 0, 1e6, 2048), Cost(100, 800, 0, 4e6, None)
    *_, flops, memory = receipt.table(Receipt(100, 8, 24, own, full, "one device", None))
    assert flops.split()[-3:] == ["1,000,000", "4,000,000", "25.0%"]
    assert memory.split()[-4:] == ["2,048", "does", "not", "fit"]
