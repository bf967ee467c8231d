"""Heads on top of a body. Objectives name the heads they need."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from jaxssl.core.precision import Precision
from jaxssl.models.layers import Embedding, LayerNorm, Projection, parameter
from jaxssl.ops.activations import ACTIVATIONS


class MaskedLmHead(nn.Module):
    """BERT's: a transform, then the tied embedding table and a bias. [..., H] to [..., V]."""

    config: Any
    precision: Precision

    @nn.compact
    def __call__(self, hidden: jax.Array, embeddings: Embedding) -> jax.Array:
        c = self.config
        transform = Projection(
            (c.hidden_size,), ("embed", None), c.initializer, self.precision, name="transform"
        )
        hidden = ACTIVATIONS[c.activation](transform(hidden))
        hidden = LayerNorm(c.norm_epsilon, self.precision, name="norm")(hidden)
        bias = parameter(
            self, "bias", nn.initializers.zeros, ("vocab",), (c.vocab_size,), self.precision
        )
        logits = embeddings.attend(hidden)
        return logits + bias.astype(logits.dtype)


class CausalLmHead(nn.Module):
    """The tied embedding table alone, as in GPT-2. [..., H] to [..., V]."""

    config: Any
    precision: Precision

    def __call__(self, hidden: jax.Array, embeddings: Embedding) -> jax.Array:
        return embeddings.attend(hidden)


class NextSentenceHead(nn.Module):
    """Logits [B, 2] of the pooled first token [B, H]: 0 the next sentence, 1 a random one."""

    config: Any
    precision: Precision

    @nn.compact
    def __call__(self, pooled: jax.Array, embeddings: Embedding) -> jax.Array:
        del embeddings
        return Projection(
            (2,), ("embed", None), self.config.initializer, self.precision, name="output"
        )(pooled)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "masked_lm": MaskedLmHead,
    "causal_lm": CausalLmHead,
    "next_sentence": NextSentenceHead,
}

HEAD_PARAMS: dict[str, tuple[str, ...]] = {
    "masked_lm": ("embeddings/tokens", "masked_lm"),
    "causal_lm": ("embeddings/tokens",),
    "next_sentence": ("next_sentence",),
}
"""The parameters each head reads, by path: a chunked loss adds up gradients of these alone."""
