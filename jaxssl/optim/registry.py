"""All optimizers, for recipes to name."""

from jaxssl.optim.adamw import AdamW
from jaxssl.optim.sgd import Sgd

OptimizerConfig = AdamW | Sgd
"""A new optimizer joins here."""
