"""Heads on top of a body. Objectives say which they need.

A new language model head is a module, a `LanguageHead` and a line that registers it; a task's head
is a `LabelHead`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.precision import Precision
from jaxssl.core.registry import named, register
from jaxssl.models.layers import Embedding, Projection, dropout_rng, make_norm, parameter
from jaxssl.ops.activations import ACTIVATIONS, Activation
from jaxssl.ops.dropout import dropout

Input = Literal["token", "row"]
"""What a head is given: hidden states of tokens [..., H], or what stands for a row [B, H]."""


Use = Literal["continue", "fill"]
"""What a language model's head is asked for: to continue a text, or to fill masks in it."""


@dataclass(frozen=True, kw_only=True)
class Head(ABC):
    """A head of a model: what it is called, and how it is made. Hashable; part of a `Model`."""

    name: str
    """Of the head and of its parameters."""
    input: Input = "token"
    """What it is given."""
    num_inputs: int = 1
    """How many hidden states, side by side, come in."""
    use: Use | None = None
    """What it is asked for, of a language model."""

    def reads(self, config: Any) -> tuple[str, ...]:
        """The parameters that it reads, each by its path or the beginning of it."""
        return (self.name,)

    def products(self, config: Any) -> int:
        """Multiply-adds at each position, as MFU counts them; 0 for next to nothing."""
        return 0

    def example(self, x: jax.Array) -> Any:
        """What it is given, made of one hidden state [..., H]: to learn its shapes."""
        return jnp.concatenate([x] * self.num_inputs, axis=-1)

    @abstractmethod
    def make(self, config: Any, precision: Precision) -> nn.Module:
        """Its module, called with what comes in and the token embedding."""


class MaskedLmHead(nn.Module):
    """BERT's: a transform to the width of the embeddings, then their tied table and a bias.
    [..., H] to [..., V]."""

    config: Any
    precision: Precision

    @nn.compact
    def __call__(
        self, hidden: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del rows
        c = self.config
        transform = Projection(
            (c.embedding_width,),
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
        scale = c.body().fill_scale
        if scale != 1:
            hidden = hidden * jnp.asarray(scale, hidden.dtype)
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
        c, body = self.config, self.config.body()
        if body.head_scale != 1:
            hidden = hidden * jnp.asarray(body.head_scale, hidden.dtype)
        if body.tied:
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


@dataclass(frozen=True, kw_only=True)
class LanguageHead(Head):
    """A head whose module is made of the model's configuration alone."""

    module: Callable[[Any, Precision], nn.Module]
    table: Literal["beside", "instead", "never"] = "never"
    """Whether it reads the token embedding: beside its own parameters, in their place where the
    family ties it, or never."""

    def reads(self, config: Any) -> tuple[str, ...]:
        """The token embedding, its own parameters, or both."""
        if self.table == "instead":
            return (TOKENS,) if config.body().tied else (self.name,)
        return (TOKENS, self.name) if self.table == "beside" else (self.name,)

    def products(self, config: Any) -> int:
        """Those with the vocabulary, and of a masked language model's transform."""
        if not self.use:
            return 0
        if self.table != "beside":
            return config.hidden_size * config.vocab_size
        return config.embedding_width * (config.hidden_size + config.vocab_size)

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """The module."""
        return self.module(config, precision)


TOKENS = "embeddings/tokens"
"""The path of the token embedding."""
MASKED_LM = LanguageHead(name="masked_lm", use="fill", module=MaskedLmHead, table="beside")
CAUSAL_LM = LanguageHead(name="causal_lm", use="continue", module=CausalLmHead, table="instead")
NEXT_SENTENCE = LanguageHead(name="next_sentence", input="row", module=NextSentenceHead)
register(Head, MASKED_LM, CAUSAL_LM, NEXT_SENTENCE)
HEADS = named(Head)
"""The heads that models of elsewhere may bring along, by name."""


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
class LabelHead(Head):
    """A head of a task: scores for each of `size` labels."""

    size: int
    """How many numbers it puts out."""
    scope: Scope = "other"
    """Which of the family's own layers come before the output."""
    dropout: float = 0.0
    """Of what comes in, and after the transform."""
    transform: Activation | Literal["tanh"] | None = None
    """A dense layer with this activation before the output, where the family has none."""

    def make(self, config: Any, precision: Precision) -> nn.Module:
        """Dropout, what the family puts under it, and the outputs."""
        return OutputHead(config, precision, self)


class OutputHead(nn.Module):
    """Dropout, an optional dense layer, and a projection: [..., F] to [..., size] in float32."""

    config: Any
    precision: Precision
    outputs: LabelHead

    @nn.compact
    def __call__(
        self, x: jax.Array, embeddings: Embedding, rows: jax.Array | None = None
    ) -> jax.Array:
        del embeddings
        c, o, p = self.config, self.outputs, self.precision
        family = c.task_head(o.scope)

        def drop(y):
            return dropout(y, o.dropout, dropout_rng(self), rows)

        def into(width: int, name: str, bias: bool, wide: bool = False) -> Projection:
            return Projection(
                (width,), ("embed", None), c.initializer, p, use_bias=bias, wide=wide, name=name
            )

        x, transform = drop(x), family.transform or o.transform
        if transform is not None:
            x = into(c.hidden_size, "transform", family.transform_bias)(x)
            x = jnp.tanh(x) if transform == "tanh" else ACTIVATIONS[transform](x)
            x = drop(make_norm(c.norm(), p, "norm")(x) if family.norm else x)
        return into(o.size, "output", family.output_bias, True)(x)


REPLACED_TOKENS = LabelHead(name="replaced_tokens", size=1, transform="gelu")
"""ELECTRA's discriminator: [..., H] to [..., 1], the logit that a token is not the original one."""
register(Head, REPLACED_TOKENS)
