"""Activations by the names used in configurations."""

import functools
from typing import Literal

import jax

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
"""`gelu` is the exact (erf) form, as in Hugging Face's BERT; `gelu_tanh` the approximation that the
original BERT and GPT-2 use; `silu` is Llama's, x sigmoid(x)."""

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
