"""What encoder-decoders have in common: one stack reads a row, a second one writes what answers it,
token by token, and attends to what the first one made.

Either stack is a model by itself: `part: encoder` is one that sees both sides, for every objective
and task of BERT's kind, and `part: decoder`, without attention to an encoder, a causal one. Their
parameters have the names that they have in the whole.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import jax

from jaxssl.core.bounds import check_at_least
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.config import AttentionConfig, BlockConfig, LayerType, Stack
from jaxssl.models.layer_context import Context, Memory
from jaxssl.models.layers import make_norm
from jaxssl.models.transformer import Embeddings, ModelConfig, Transformer
from jaxssl.ops.attention.pattern import Pattern

ENCODER, DECODER = "encoder", "decoder"
Part = Literal["both", "encoder", "decoder"]


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """What the shapes of encoder-decoders have in common; `num_layers` are the encoder's."""

    part: Part = "both"
    """Which stacks there are: both, or the encoder or the decoder alone, as a model of one stack.
    What starts from both leaves the other one behind."""
    decoder_layers: int | None = None
    """Blocks of the decoder; null is as many as the encoder has."""
    decoder_segments: tuple[int, ...] = ()
    """As `segments`, of the decoder."""
    decoder_start_token_id: int = 0
    """What the decoder reads before its first token."""

    def __post_init__(self):
        check_at_least(1, self, "decoder_layers")
        check_at_least(0, self, "decoder_start_token_id")
        super().__post_init__()

    @property
    def encoder_decoder(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there are both."""
        return self.part == "both"

    @property
    def causal(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The decoder alone is; of both the first stack sees both sides."""
        return self.part == "decoder"

    @property
    def left_out(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of the other stack, and the decoder's attention to it."""
        if self.part == "encoder":
            return (DECODER, "decoder_embeddings", "decoder_norm")
        if self.part == "decoder":
            cross = ("cross_attention", "cross_attention_norm")
            across = tuple(f"{DECODER}/layers/{name}" for name in cross)
            return (ENCODER, "norm", "embeddings/positions", "embeddings/norm", *across)
        return ()

    @property
    def decoder_depth(self) -> int:
        """Blocks of the decoder."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder, and the decoder, or one of them."""
        both = (
            Stack(ENCODER, self.num_layers, self.segments),
            Stack(DECODER, self.decoder_depth, self.decoder_segments),
        )
        return tuple(stack for stack in both if self.part in ("both", stack.name))

    def with_segments(self, segments: Mapping[str, tuple[int, ...]]) -> Self:
        """The same shape with these segments of each stack, by its name; others in one."""
        return dataclasses.replace(
            self,
            segments=segments.get(ENCODER, ()),
            decoder_segments=segments.get(DECODER, ()),
        )

    def block(self, precision: Precision, stack: str = "") -> BlockConfig:
        """Of the decoder of both with attention to the memory."""
        attends = stack == DECODER and self.part == "both"
        return dataclasses.replace(
            super().block(precision, stack),
            attention=self.attention_of(stack),
            cross_attention=self.cross_attention() if attends else None,
        )

    def self_attention(self) -> AttentionConfig:
        """Of the first stack."""
        return self.attention_of(self.stacks[0].name)

    def attention_of(self, stack: str) -> AttentionConfig:
        """Of a stack's tokens to each other; the decoder's see those before them."""
        is_decoder = stack == DECODER
        depth = self.decoder_depth if is_decoder else self.num_layers
        layers = (LayerType(Pattern(causal=is_decoder)),) * depth
        return dataclasses.replace(super().self_attention(), layers=layers)

    def cross_attention(self) -> AttentionConfig:
        """Of the decoder's tokens to the memory."""
        return dataclasses.replace(self.attention_of(ENCODER), layers=(), relative=None)


def network_of(config: ModelConfig) -> type[Transformer]:
    """The network of a family's configuration."""
    if config.encoder_decoder:
        return EncoderDecoder
    is_part = isinstance(config, EncoderDecoderConfig)
    return DecoderAlone if is_part and config.part == "decoder" else Transformer


class EncoderDecoder(Transformer):
    """An encoder, a decoder, and heads over the decoder's hidden states."""

    def setup(self):
        super().setup()
        body = self.config.body()
        if body.position_rows or body.embedding_norm:
            self.decoder_embeddings = Embeddings(self.config, self.precision, has_tokens=False)
        if body.final_norm:
            self.decoder_norm = make_norm(self.config.norm(), self.precision)

    def decode(self, batch: Batch, memory: Memory, slots: int | None = None) -> jax.Array:
        """Hidden states [B, U, H] of the decoder's `tokens`, `segment_ids`, `positions` and
        optional `row`, for the memory of the same segments; `slots` as in `encode`."""
        rows = batch.get("row")
        context = Context(
            batch["segment_ids"], batch["positions"], rows=rows, memory=memory, slots=slots
        )
        x = self._run(getattr(self, DECODER), self._embedded(batch), context, None)
        return self._ended(x, context, "decoder_norm")

    def _embedded(self, batch: Batch, *, leads: bool = False) -> jax.Array:
        """What the decoder is given."""
        body = self.config.body()
        if body.position_rows or body.embedding_norm:
            return self.decoder_embeddings(batch, self.embeddings.tokens, leads=leads)
        return self.embeddings(batch, leads=leads)


class DecoderAlone(EncoderDecoder):
    """The decoder as a model of one stack: what it is given and its last norm are its own."""

    last_norm = "decoder_norm"

    def _read(self, batch: Batch, *, leads: bool) -> jax.Array:
        return self._embedded(batch, leads=leads)
