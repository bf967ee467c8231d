"""The network of every family: embeddings, a stack of equal blocks, a last norm, and heads.

A family is a configuration. It says what its blocks are made of (`self_attention`, `feed_forward`,
`norm`), what there is besides them (`body`) and what its published models put under the outputs of
a task (`task_head`).
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.platform import gpu_generation, platform
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.config import (
    AttentionConfig,
    BlockConfig,
    BodyConfig,
    FeedForwardConfig,
    LayerType,
    NormConfig,
    Stack,
)
from jaxssl.models.heads import Head, Scope, TaskHead
from jaxssl.models.layer_context import Context, layer_patterns
from jaxssl.models.layers import Embedding, Projection, dropout_rng, make_norm
from jaxssl.models.stack import LayerStack, Remat
from jaxssl.ops.activations import Activation
from jaxssl.ops.attention.kernels import Call, KernelName, check_call, choose
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.dropout import dropout
from jaxssl.ops.pooling import Pooling
from jaxssl.parallel.axes import constrain, split_by


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """What the shapes of all families have in common. A family is a dataclass over it, registered
    (`models.registry`)."""

    causal: ClassVar[bool] = False
    """Whether a token sees those before it alone."""
    encoder_decoder: ClassVar[bool] = False
    """Whether a second stack writes what answers the row that the first one reads
    (`models.encoder_decoder`)."""
    left_out: ClassVar[tuple[str, ...]] = ()
    """Paths of parameters that a whole model of the family has, and this part of one has not."""

    name: str
    """The family."""
    vocab_size: int
    """Rows of the token embedding; at least the tokenizer's size."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_layers: int = 12
    """Number of transformer blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    max_positions: int = 512
    """Longest sequence, in tokens."""
    activation: Activation = "gelu"
    """Of the feed-forward layers."""
    dropout: float = 0.0
    """Dropout on embeddings and on each sublayer's output."""
    attention_dropout: float = 0.0
    """Dropout on attention weights."""
    norm_epsilon: float = 1e-5
    """Added to the variance (of root mean square norms: the mean square) in each norm."""
    initializer_range: float = 0.02
    """Scale of the normal that kernels and embeddings start from."""
    attention: KernelName = "auto"
    """What computes attention: `auto` is the fastest kernel that takes the model and its rows, and
    is told. A cache of keys is read by `xla`."""
    segments: tuple[int, ...] = ()
    """Sizes of the groups of layers that are scanned together; empty means one group of all."""
    remat: Remat = "none"
    """What the backward pass computes again, to save memory."""
    unroll: bool = False
    """Compile the layers one by one instead of a loop: slower to compile, and for small models on a
    CPU faster to run (a quarter less a step in nanoGPT's preset)."""

    def __post_init__(self):
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
        check_at_least(1, self, *sizes, "max_positions")
        check_above_zero(self, "norm_epsilon", "initializer_range")
        check_rates(dropout=self.dropout, attention_dropout=self.attention_dropout)
        _ = self.stacks  # which refuses segments that do not add up
        self._check_heads()
        self._check_attention()

    def _check_heads(self) -> None:
        if self.hidden_size % self.num_heads:
            below = self.hidden_size - self.hidden_size % self.num_heads
            raise UserError(
                "the heads do not divide the width",
                where="num_heads",
                expected=f"a divisor of hidden_size={self.hidden_size}",
                got=self.num_heads,
                fix=f"use hidden_size={below or self.num_heads} or another number of heads",
            )

    def _check_attention(self) -> None:
        for call in self._calls():
            check_call(self.attention, call, where="attention")

    def _calls(self, **more: Any) -> list[Call]:
        """What the layers ask a kernel for, as far as the configuration tells."""
        c, has_dropout = self.self_attention(), self.attention_dropout > 0
        more |= {"head_dim": self.head_dim, "has_dropout": has_dropout}
        has_bias = c.relative is not None
        return [Call(pattern=each.pattern, has_bias=has_bias, **more) for each in c.layers]

    def attention_told(self, length: int, precision: Precision) -> str:
        """The kernels that training on rows of `length` tokens runs on, and why not faster ones."""
        calls = self._calls(
            lengths=(length, length),
            is_float32=precision.compute == "float32",
            is_exact=precision.products == "highest",
            gpu=gpu_generation(),
        )
        chosen = dict.fromkeys(choose(self.attention, call, platform()) for call in calls)
        why = "; ".join(dict.fromkeys(each.why for each in chosen if each.why))
        names = " and ".join(dict.fromkeys(each.name for each in chosen))
        return f"{names} ({why})" if why else names

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks of layers that the model has: here one."""
        name = "decoder" if self.causal else "encoder"
        return (Stack(name, self.num_layers, self.segments),)

    def with_segments(self, segments: Mapping[str, tuple[int, ...]]) -> Self:
        """The same shape with these segments of each stack, by its name; others in one."""
        (stack,) = self.stacks
        return dataclasses.replace(self, segments=segments.get(stack.name, ()))

    @property
    def row_pooling(self) -> Pooling:
        """What stands for a whole row, unless a task says otherwise."""
        return "last" if self.causal else "cls"

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_heads

    @property
    def embedding_width(self) -> int:
        """Width of the tables of tokens, positions and token types."""
        return self.body().embedding_size or self.hidden_size

    @property
    def initializer(self) -> nn.initializers.Initializer:
        """Of kernels and embeddings."""
        return nn.initializers.normal(self.initializer_range)

    @property
    def embedding_initializer(self) -> nn.initializers.Initializer:
        """Of the tables of embeddings."""
        return self.initializer

    @property
    def output_initializer(self) -> nn.initializers.Initializer:
        """Of the projections that write to the residual stream."""
        return self.initializer

    def self_attention(self) -> AttentionConfig:
        """The configuration of attention: here of full width, alike in all layers."""
        return AttentionConfig(
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            layers=(LayerType(Pattern(causal=self.causal)),) * self.num_layers,
            kernel=self.attention,
            dropout=self.attention_dropout,
        )

    def feed_forward(self) -> FeedForwardConfig:
        """The configuration of the feed-forward layers."""
        return FeedForwardConfig(size=self.intermediate_size, activation=self.activation)

    def norm(self) -> NormConfig:
        """The configuration of norms: here before each sublayer."""
        return NormConfig(epsilon=self.norm_epsilon)

    def block(self, precision: Precision, stack: str = "") -> BlockConfig:
        """The configuration of one block of the stack of this name, where there are several."""
        del stack
        return BlockConfig(
            hidden_size=self.hidden_size,
            attention=self.self_attention(),
            feed_forward=self.feed_forward(),
            norm=self.norm(),
            dropout=self.dropout,
            initializer=self.initializer,
            output_initializer=self.output_initializer,
            precision=precision,
        )

    @abstractmethod
    def body(self) -> BodyConfig:
        """What there is besides the blocks."""

    @abstractmethod
    def task_head(self, scope: Scope) -> TaskHead:
        """What comes under the outputs of a task."""


def check_rates(**rates: float) -> None:
    """Refuses dropout rates outside [0, 1).

    Raises:
      UserError: names the first such rate.
    """
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(
                "a dropout rate is out of range",
                where=name,
                expected="at least 0 and below 1",
                got=rate,
            )


class Embeddings(nn.Module):
    """The sum of token embeddings and what else a family adds to them, brought to the width of the
    hidden states where it has another."""

    config: ModelConfig
    precision: Precision
    has_tokens: bool = True
    """Whether the table of tokens is its own; else it is given one."""

    def setup(self):
        c, p, body = self.config, self.precision, self.config.body()

        def table(size, axis):
            return Embedding(size, c.embedding_width, (axis, "embed"), c.embedding_initializer, p)

        if self.has_tokens:
            self.tokens = table(c.vocab_size, "vocab")
        if body.position_rows:
            self.positions = table(body.position_rows, "positions")
        if body.type_rows:
            self.token_types = table(body.type_rows, None)
        if body.embedding_norm:
            self.norm = make_norm(c.norm(), p)
        if c.embedding_width != c.hidden_size:
            self.projection = Projection((c.hidden_size,), ("embed", None), c.initializer, p)

    def __call__(
        self, batch: Batch, table: Embedding | None = None, *, leads: bool = False
    ) -> jax.Array:
        """Hidden states [B, T, H] of `tokens`, `positions`, optional `token_types`, and
        `first_embedding` [B, E], which stands in the place of each row's first token's.

        Args:
          table: of tokens, where it has none of its own.
          leads: whether adapters put their tokens before these; of what is given of the tokens,
            all but `tokens` counts them (`led`).
        """
        c, body, tokens = self.config, self.config.body(), batch["tokens"]
        x = (self.tokens if table is None else table)(tokens)
        x = self.embedded(x) if leads else x
        if body.embedding_scale != 1:
            x = x * jnp.asarray(body.embedding_scale, x.dtype)
        if "first_embedding" in batch:
            first = x.shape[1] - tokens.shape[1]
            x = x.at[:, first].set(batch["first_embedding"].astype(x.dtype))
        if body.position_rows:
            x = x + self.positions(self.placed(batch["positions"]) + body.position_offset)
        if body.type_rows:
            types = batch.get("token_types", jnp.zeros(x.shape[:2], jnp.int32))
            x = x + self.token_types(jnp.minimum(types, body.type_rows - 1))
        if body.embedding_norm:
            x = self.norm(x)
        x = dropout(x, c.dropout, dropout_rng(self), batch.get("row"))
        return x if c.embedding_width == c.hidden_size else self.projection(x)

    def embedded(self, x: jax.Array) -> jax.Array:
        """The embeddings of a row's tokens [B, T, E]: a site of adapters, which put others before
        these."""
        return x

    def placed(self, positions: jax.Array) -> jax.Array:
        """The learned positions of a row's tokens [B, T]: a site of adapters, which may move
        them."""
        return positions


def led(batch: Batch, lead: int) -> Batch:
    """What is said of the tokens of rows, with so many more before them: of the segment and the
    type of the first one, on the places before it."""
    (B, T), more = batch["tokens"].shape, {}
    for name, blank in (("segment_ids", 1), ("token_types", 0)):
        if name in batch:
            first = batch[name][:, :1] if T else jnp.full((B, 1), blank, jnp.int32)
            before = jnp.broadcast_to(first, (B, lead))
            more[name] = jnp.concatenate([before, batch[name]], axis=1)
    places = jnp.broadcast_to(jnp.arange(lead, dtype=jnp.int32), (B, lead))
    more["positions"] = jnp.concatenate([places, batch["positions"] + lead], axis=1)
    if "prefix" in batch:
        more["prefix"] = jnp.pad(batch["prefix"], ((0, 0), (lead, 0)))
    return {**batch, **more}


class Transformer(nn.Module):
    """The body of a family and the heads named in `heads`."""

    config: ModelConfig
    heads: tuple[Head, ...] = ()
    precision: Precision = Precision()
    last_norm: ClassVar[str] = "norm"
    """The norm after the first stack, where there is one."""

    def setup(self):
        c, p, body = self.config, self.precision, self.config.body()
        self.embeddings = Embeddings(c, p)
        for stack in c.stacks:
            block = c.block(p, stack.name)
            setattr(self, stack.name, LayerStack(stack, block, c.remat, c.unroll))
        if body.final_norm:
            self.norm = make_norm(c.norm(), p)
        if body.pooler:
            self.pooler = Projection((c.hidden_size,), ("embed", None), c.initializer, p)
        for head in self.heads:
            setattr(self, head.name, head.make(c, p))

    def encode(
        self,
        batch: Batch,
        pattern: Pattern | None = None,
        slots: int | None = None,
        lead: int = 0,
        has_read_lead: bool = False,
    ) -> jax.Array:
        """Hidden states [B, T, H] of `tokens`, `segment_ids`, `positions`, optional `token_types`,
        `first_embedding` [B, E], in the place of each row's first token's, `row`, the rows' places
        in the global batch, and `prefix`, for a pattern that has one.

        Args:
          pattern: of attention, in place of the configuration's; layers keep their windows.
          slots: of the cache, where there is one.
          lead: so many tokens of adapters are before each text; they come out, too. Of a causal
            stack they are before all texts of a row and see none of them.
          has_read_lead: the cache has them, and `positions` begin behind them.
        """
        leads = lead > 0 and not has_read_lead
        batch = led(batch, lead) if leads else batch
        context = Context(
            batch["segment_ids"],
            batch["positions"],
            rows=batch.get("row"),
            slots=slots,
            lead=lead if self.config.causal else 0,
        )
        if pattern is not None and pattern.prefix:
            context = dataclasses.replace(context, prefix=batch["prefix"] > 0)
        stack = getattr(self, self.config.stacks[0].name)
        x = self._read(batch, leads=leads)
        return self._ended(self._run(stack, x, context, pattern), context, self.last_norm)

    def _read(self, batch: Batch, *, leads: bool) -> jax.Array:
        """What the first stack is given."""
        return self.embeddings(batch, leads=leads)

    def _run(
        self, stack: LayerStack, x: jax.Array, context: Context, pattern: Pattern | None
    ) -> jax.Array:
        # The length of a cache is none of the batch's.
        length = x.shape[1] if context.slots is None else None
        patterns = layer_patterns(stack.config.attention, pattern, length)
        return stack(x, context, patterns)

    def _ended(self, x: jax.Array, context: Context, norm: str) -> jax.Array:
        """What comes after the last block of a stack."""
        body = self.config.body()
        if split_by("residual"):
            # Whole once, here: a loss in chunks would gather it in each of its turns.
            x = constrain(x, ("batch", "sequence", "activation"))
        x = getattr(self, norm)(x) if body.final_norm else x
        rate = self.config.dropout if body.final_dropout else 0.0
        return dropout(x, rate, dropout_rng(self), context.rows) if rate else x

    def pool(self, hidden: jax.Array) -> jax.Array:
        """The sentence vector [B, H]: a dense tanh layer over the first token."""
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def head(self, name: str, x: Any, rows: jax.Array | None = None) -> Any:
        """The output of one head; `rows` as in `encode`."""
        return getattr(self, name)(x, self.embeddings.tokens, rows)
