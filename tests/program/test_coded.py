"""Frozen parameters in codes: which these are, on any mesh, and what a step with them is."""

import tiny

from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.models.adapters import Attached
from jaxssl.models.model import Model
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.start import Start

OBJECTIVE = MaskedLm()
BATCH = tiny.rows([[x] for x in tiny.random_documents([12] * 8)])
KERNELS = 6
"""Of a layer: queries, keys, values, outputs, up and down."""


def model(form="nf4", **changes):
    """With LoRA in all projections, its second factor not zero."""
    lora = Attached("default", Lora(name="lora", rank=2, targets=("all-linear",)))
    precision = Precision(frozen=form)
    return Model(tiny.bert(**changes), OBJECTIVE.heads, precision, adapters=(lora,))


class Given(Start):
    """Starts from parameters that are at hand, all but the adapters' being a base's."""

    def __init__(self, params):
        object.__setattr__(self, "params", flatten(params))

    def is_verbatim(self, path):
        return not path.startswith("adapters/")
