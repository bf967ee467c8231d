"""jaxssl: raw text to a pretrained language model, and on to a fine-tuned one, in JAX."""

__version__ = "0.1.0"
