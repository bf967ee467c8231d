"""Activations by the names used in configurations."""

import functools
from typing import Literal

import jax

Activation = Literal["gelu", "gelu_tanh"]
"""`gelu` is the exact (erf) form, as in Hugging Face's BERT; `gelu_tanh` the approximation that the
original BERT and GPT-2 use."""

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
