"""Auto-encoding: a text through one vector and back.

The encoder makes a vector of a text, in the manner of TSDAE (Wang et al., 2021) perhaps of what is
left of it after tokens were deleted; a small causal decoder writes the text again from the vector
alone. It is the decoder's first input, through a projection (as the latent of OPTIMUS, Li et al.,
2020, is added to it), in the place of the row's first token.

Departures from TSDAE (UKPLab/sentence-transformers, losses/denoising_auto_encoder.py): there a
decoder of the encoder's size reads the vector by cross-attention; tokens are deleted here, words
there; a row's first token (`[CLS]`, where the tokenizer has it) is not written again.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least, check_share
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.heads import CAUSAL_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.network import Network, Tie
from jaxssl.models.vector_heads import VectorHead
from jaxssl.objectives.base import Loss, Outputs, Sums
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.contrast.objective import check_one_text, check_pooling
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.ops.pooling import Pooling, pool

DECODER, FIRST = "auto_decoder", VectorHead(name="first_input", to="embedding")
CAUSAL = Pattern(causal=True)
DELETED = 0x64656C
"""What an example's key is folded with for the tokens that are deleted."""


@dataclass(frozen=True, kw_only=True)
class AutoEncode(CausalLm):
    """Write a text again from one vector of it."""

    name: Literal["auto_encode"] = "auto_encode"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    pooling: Pooling = "cls"
    """What stands for a text: its first token (cls), the mean of all, ..."""
    deleted: float = 0.0
    """Share of the tokens that the encoder does not see; TSDAE has 0.6. Special tokens stay, and
    one other at least."""
    decoder_layers: int = 1
    """Layers of the decoder, which is else of the encoder's shape."""

    def __post_init__(self):
        super().__post_init__()
        check_share(self, "deleted")
        check_at_least(1, self, "decoder_layers")

    @property
    def heads(self) -> tuple[Head, ...]:
        """None: the language model's is the decoder's."""
        return ()

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token that is written again."""
        return {self.name: Loss(per_token=True, shown="auto-encoding")}

    def networks(self, model: ModelConfig) -> Mapping[str, Network]:
        """The decoder, with the encoder's token embeddings."""
        changes: dict[str, Any] = {"num_layers": self.decoder_layers, "segments": ()}
        if model.body().pooler:
            changes["pooler"] = False
        if isinstance(model, EncoderDecoderConfig):
            changes |= {"decoder_layers": self.decoder_layers, "decoder_segments": ()}
        config = dataclasses.replace(model, **changes)
        ties = (Tie("embeddings/tokens", "embeddings/tokens"),)
        return {DECODER: Network(config, (CAUSAL_LM, FIRST), ties)}

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: the vector is what was pooled."""
        return False

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The pooling must be one that the model has."""
        check_pooling(self.pooling, model)

    def check_rows(self, rows: Batch) -> None:
        """Each row must be one text."""
        check_one_text(rows)

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """As for the next token; adds `seen` bool [B, T], the tokens that the encoder sees."""
        made = super().corrupt(batch, seed, vocabulary)
        reserved = jnp.array(vocabulary.reserved, jnp.int32)

        def row(key, tokens, segments):
            special = jnp.any(tokens[:, None] == reserved, axis=1)
            draw = jnp.where(special, 1.0, jax.random.uniform(key, tokens.shape))
            best = jnp.argmax(jnp.where(special | (segments == 0), -1.0, draw))
            kept = (draw >= self.deleted) | (jnp.arange(len(tokens)) == best)
            return kept & (segments > 0)

        keys = jax.vmap(jax.random.fold_in, (0, None))(example_keys(seed, batch), DELETED)
        return {**made, "seen": jax.vmap(row)(keys, batch["tokens"], batch["segment_ids"])}

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of tokens that are written again."""
        return {self.name: jnp.sum(batch["next_weights"])}

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """`hidden` [B, T, H] of the decoder, and the vectors `vector` [B, H]."""
        left = {**batch, **_left_over(batch)}
        vector = pool(model.encode(params, left, key), left["segment_ids"], self.pooling)
        decoder = model.network(DECODER)
        first = decoder.head(params, FIRST.name, vector)
        hidden = decoder.encode(params, {**batch, "first_embedding": first}, key, CAUSAL)
        return {"hidden": hidden, "vector": vector}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy of the next token, as of the decoder's language model."""
        made = super().sums(model.network(DECODER), params, outputs, batch, key)
        losses = {self.name: made.losses["causal_lm"]}
        metrics = {
            metric.replace("causal_lm", self.name): value for metric, value in made.metrics.items()
        }
        return Sums(losses, metrics)


def _left_over(batch: Batch) -> dict[str, jax.Array]:
    """The tokens that are seen, moved together to the beginning of their rows."""
    order = jnp.argsort(~batch["seen"], axis=1, stable=True)
    count = jnp.sum(batch["seen"], axis=1, keepdims=True)
    places = jnp.broadcast_to(jnp.arange(order.shape[1]), order.shape)
    real = (places < count).astype(jnp.int32)
    tokens = jnp.take_along_axis(batch["tokens"], order, axis=1)
    return {"tokens": tokens, "segment_ids": real, "positions": places * real}
