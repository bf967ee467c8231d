"""Heads on top of a body. Objectives name the heads they need."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.models.layers import Embedding, Projection, dropout_rng, make_norm, parameter
from jaxssl.ops.activations import ACTIVATIONS, Activation
from jaxssl.ops.dropout import dropout


class MaskedLmHead(nn.Module):
    """BERT's: a transform, then the tied embedding table and a bias. [..., H] to [..., V]."""

    config: Any
    precision: Precision

    @nn.compact
    def __call__(
        self, hidden: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del rows
        c = self.config
        transform = Projection(
            (c.hidden_size,),
            ("embed", None),
            c.initializer,
            self.precision,
            use_bias=c.feed_forward().bias,
            name="transform",
        )
        hidden = make_norm(c.norm(), self.precision, "norm")(
            ACTIVATIONS[c.activation](transform(hidden))
        )
        bias = parameter(
            self, "bias", nn.initializers.zeros, ("vocab",), (c.vocab_size,), self.precision
        )
        logits = embeddings.attend(hidden)
        return logits + bias.astype(logits.dtype)


class CausalLmHead(nn.Module):
    """The embedding table where it is tied, as in GPT-2, or a projection. [..., H] to [..., V]."""

    config: Any
    precision: Precision

    @nn.compact
    def __call__(
        self, hidden: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del rows
        c = self.config
        if c.body().tied:
            return embeddings.attend(hidden)
        return Projection(
            (c.vocab_size,),
            ("embed", "vocab"),
            c.initializer,
            self.precision,
            use_bias=False,
            wide=True,
            name="output",
        )(hidden)


class NextSentenceHead(nn.Module):
    """Logits [B, 2] in float32 of the pooled first token [B, H]: 0 the next sentence, 1 a random
    one."""

    config: Any
    precision: Precision

    @nn.compact
    def __call__(
        self, pooled: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del embeddings, rows
        c, p = self.config, self.precision
        output = Projection((2,), ("embed", None), c.initializer, p, wide=True, name="output")
        return output(pooled)


Scope = Literal["row", "token", "other"]
"""What a task's head looks at: what stands for a whole row, each token, or something of its own."""


@dataclass(frozen=True, kw_only=True)
class TaskHead:
    """What a family's published models put under the outputs of a task."""

    transform: Activation | Literal["tanh"] | None = None
    """A dense layer with this activation, of the body's width."""
    transform_bias: bool = True
    """Of that layer."""
    norm: bool = False
    """A norm of the family's type after it."""
    output_bias: bool = True
    """Of the outputs."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """A head of a task: scores for each of `size` labels. Hashable; part of a `Model`."""

    name: str
    """The task it belongs to, and where its parameters are."""
    size: int
    """How many numbers it puts out."""
    scope: Scope = "other"
    """Which of the family's own layers come before the output."""
    inputs: int = 1
    """How many hidden states, side by side, come in."""
    dropout: float = 0.0
    """Of what comes in, and after the transform."""
    transform: Activation | Literal["tanh"] | None = None
    """A dense layer with this activation before the output, where the family has none."""


class OutputHead(nn.Module):
    """Dropout, an optional dense layer, and a projection: [..., F] to [..., size] in float32."""

    config: Any
    precision: Precision
    outputs: Outputs

    @nn.compact
    def __call__(
        self, x: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del embeddings
        c, o, p = self.config, self.outputs, self.precision
        family = c.task_head(o.scope)
        drop = lambda y: dropout(y, o.dropout, dropout_rng(self), rows)
        into = lambda width, name, bias, wide=False: Projection(
            (width,), ("embed", None), c.initializer, p, use_bias=bias, wide=wide, name=name
        )
        x, transform = drop(x), family.transform or o.transform
        if transform is not None:
            x = into(c.hidden_size, "transform", family.transform_bias)(x)
            x = jnp.tanh(x) if transform == "tanh" else ACTIVATIONS[transform](x)
            x = drop(make_norm(c.norm(), p, "norm")(x) if family.norm else x)
        return into(o.size, "output", family.output_bias, True)(x)


Head = str | Outputs
"""A head of a language model by name, or a task's."""


def head_name(head: Head) -> str:
    """The name of a head and of its parameters."""
    return head if isinstance(head, str) else head.name


def make_head(head: Head, config: Any, precision: Precision) -> nn.Module:
    """The module of a head."""
    if isinstance(head, str):
        return HEADS[head](config, precision)
    return OutputHead(config, precision, head)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "masked_lm": MaskedLmHead,
    "causal_lm": CausalLmHead,
    "next_sentence": NextSentenceHead,
}


def head_parts(name: str, config: Any) -> tuple[str, ...]:
    """The parameters that a head reads, by path: a chunked loss adds up gradients of these
    alone."""
    if name == "causal_lm":
        return ("embeddings/tokens",) if config.body().tied else ("causal_lm",)
    return ("embeddings/tokens", name) if name == "masked_lm" else (name,)
