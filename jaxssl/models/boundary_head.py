"""The head that guesses a span's tokens from what stands before and behind it."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.models.heads import TOKENS, Head
from jaxssl.models.layers import Embedding, Projection, make_norm, parameter
from jaxssl.ops.activations import ACTIVATIONS


@dataclass(frozen=True, kw_only=True)
class SpanBoundaryHead(Head):
    """SpanBERT's: two dense layers over both ends and the place in the span, the second to the
    width of the embeddings, then the tied token embedding and a bias.

    It is given {"left", "right": hidden states [..., H], "offset": int [...], from 0 on}.

    Attributes:
      longest: of the spans, in tokens.
      position_size: width of the embedding of places; SpanBERT has 200.
    """

    name: str = "span_boundary"
    longest: int = 15
    position_size: int = 200

    def reads(self, config: Any) -> tuple[str, ...]:
        """The token embedding and its own parameters."""
        return (TOKENS, self.name)

    def products(self, config: Any) -> int:
        """Of both layers and of the vocabulary."""
        H, E = config.hidden_size, config.embedding_width
        return H * (2 * H + self.position_size) + E * (H + config.vocab_size)

    def example(self, x: jax.Array) -> Any:
        """Both ends, and the first place."""
        return {"left": x, "right": x, "offset": jnp.zeros(x.shape[:-1], jnp.int32)}

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """The module."""
        return _SpanBoundary(config, precision, self)


class _SpanBoundary(nn.Module):
    config: Any
    precision: Precision
    head: SpanBoundaryHead

    @nn.compact
    def __call__(self, x: Any, embeddings: Embedding, rows: jax.Array | None = None) -> jax.Array:
        del rows
        c, p = self.config, self.precision
        shape = (self.head.longest, self.head.position_size)
        table = parameter(self, "positions", c.initializer, (None, None), shape, p)
        place = table.astype(x["left"].dtype)[x["offset"]]
        hidden = jnp.concatenate([x["left"], x["right"], place], axis=-1)
        for number, width in ((1, c.hidden_size), (2, c.embedding_width)):
            dense = Projection((width,), (None, None), c.initializer, p, name=f"transform{number}")
            hidden = ACTIVATIONS[c.activation](dense(hidden))
            hidden = make_norm(c.norm(), p, f"norm{number}")(hidden)
        bias = parameter(self, "bias", nn.initializers.zeros, ("vocab",), (c.vocab_size,), p)
        logits = embeddings.attend(hidden)
        return logits + bias.astype(logits.dtype)
