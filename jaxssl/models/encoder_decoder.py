"""What encoder-decoders have in common: one stack reads a row, a second one writes what answers it,
token by token, and attends to what the first one made."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import jax

from jaxssl.core.bounds import check_at_least
from jaxssl.core.precision import Precision
from jaxssl.core.types import Batch
from jaxssl.models.config import AttentionConfig, BlockConfig, LayerType, Stack
from jaxssl.models.layer_context import Context, Memory
from jaxssl.models.layers import make_norm
from jaxssl.models.transformer import Embeddings, ModelConfig, Transformer
from jaxssl.ops.attention.pattern import Pattern

DECODER = "decoder"


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """What the shapes of encoder-decoders have in common; `num_layers` are the encoder's."""

    encoder_decoder: ClassVar[bool] = True

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
    def decoder_depth(self) -> int:
        """Blocks of the decoder."""
        return self.num_layers if self.decoder_layers is None else self.decoder_layers

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The encoder, and the decoder."""
        return (
            Stack("encoder", self.num_layers, self.segments),
            Stack(DECODER, self.decoder_depth, self.decoder_segments),
        )

    def with_segments(self, segments: Mapping[str, tuple[int, ...]]) -> Self:
        """The same shape with these segments of each stack, by its name; others in one."""
        return dataclasses.replace(
            self,
            segments=segments.get("encoder", ()),
            decoder_segments=segments.get(DECODER, ()),
        )

    def block(self, precision: Precision, stack: str = "") -> BlockConfig:
        """Of the decoder with attention to the memory."""
        block = super().block(precision, stack)
        if stack != DECODER:
            return block
        return dataclasses.replace(
            block, attention=self.decoder_attention(), cross_attention=self.cross_attention()
        )

    def decoder_attention(self) -> AttentionConfig:
        """Of the decoder's tokens to those before them."""
        layers = (LayerType(Pattern(causal=True)),) * self.decoder_depth
        return dataclasses.replace(self.self_attention(), layers=layers)

    def cross_attention(self) -> AttentionConfig:
        """Of the decoder's tokens to the memory."""
        return dataclasses.replace(self.self_attention(), layers=(), relative=None)


class EncoderDecoder(Transformer):
    """An encoder, a decoder, and heads over the decoder's hidden states. The first stack is
    the encoder: alone, it is used as any other one."""

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

    def _embedded(self, batch: Batch) -> jax.Array:
        body = self.config.body()
        if body.position_rows or body.embedding_norm:
            return self.decoder_embeddings(batch, self.embeddings.tokens)
        return self.embeddings(batch)
