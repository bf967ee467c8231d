"""The optimizers that recipes can name. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.optim.adafactor import Adafactor
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.base import Optimizer
from jaxssl.optim.sgd import Sgd

register(Optimizer, AdamW, Sgd, Adafactor)
