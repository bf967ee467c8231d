"""What every objective of encoder-decoders has in common: a row that is read, `tokens` [B, T], and
one that is written, `targets` [B, U]. A token of a segment sees that segment alone, on both
sides."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.encoder_decoder import EncoderDecoderConfig
from jaxssl.models.heads import CAUSAL_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.objectives.next_token import next_token_sums

SIDE = "targets"
"""The name of the second side in a batch."""


@dataclass(frozen=True, kw_only=True)
class TwoSided(Objective):
    """Write one row for another that is read."""

    z_loss: float = 0.0
    """Factor of log(Z)**2, which keeps the logits' scale in check; T5X used 1e-4."""
    chunk: int = 128
    """Places of each row whose logits are held at once."""

    def __post_init__(self):
        check_at_least(1, self, "chunk")
        check_at_least(0, self, "z_loss")

    @property
    def smoothing(self) -> float:
        """Share of the loss that is the mean over all ids: none."""
        return 0.0

    @property
    def heads(self) -> tuple[Head, ...]:
        """The token embedding, or a projection."""
        return (CAUSAL_LM,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token that is written."""
        return {self.name: Loss(per_token=True, sees_both_sides=True)}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The model must read and write."""
        check_encoder_decoder(model, self.name)
        check_start(model, vocabulary)

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """No: every token counts."""
        return False

    @abstractmethod
    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """What is read, `tokens`, `segment_ids` and `positions` [B, T], and what is written,
        `targets`, `targets_segment_ids` and `targets_positions` [B, U]."""

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of tokens that are written."""
        return {self.name: jnp.sum(batch[f"{SIDE}_segment_ids"] > 0, dtype=jnp.float32)}

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """`hidden` [B, U, H]: of each place, the state that its target is guessed from."""
        memory = model.memory(params, batch, key)
        key = None if key is None else jax.random.fold_in(key, 1)
        return {"hidden": model.write(params, written(batch, model.config), memory, key)}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy in chunks of what is written."""
        real = (batch[f"{SIDE}_segment_ids"] > 0).astype(jnp.float32)
        return next_token_sums(
            model,
            params,
            outputs["hidden"],
            batch[SIDE],
            real,
            name=self.name,
            chunk=self.chunk,
            z_loss=self.z_loss,
            smoothing=self.smoothing if key is not None else 0.0,
        )


def written(batch: Batch, config: ModelConfig) -> dict[str, Any]:
    """What the decoder reads: the targets of each segment, one place on, behind the token that
    starts every one."""
    assert isinstance(config, EncoderDecoderConfig)
    targets, positions = batch[SIDE], batch[f"{SIDE}_positions"]
    before = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    side = {
        "tokens": jnp.where(positions == 0, config.decoder_start_token_id, before),
        "segment_ids": batch[f"{SIDE}_segment_ids"],
        "positions": positions,
    }
    return {**side, "row": batch["row"]} if "row" in batch else side


def check_encoder_decoder(model: ModelConfig, name: str) -> None:
    """Refuses a model of one stack.

    Raises:
      UserError: names the families that have two.
    """
    if model.encoder_decoder:
        return
    what = "a model of one stack has nothing to read one text and write another with"
    if isinstance(model, EncoderDecoderConfig):
        raise UserError(
            what,
            where="model.part",
            expected=f"both, for objective.name={name}",
            got=model.part,
            fix="set model.part=both",
        )
    raise UserError(
        what,
        where="model.name",
        expected=f"an encoder-decoder for objective.name={name}: t5, mt5, bart, mbart",
        got=model.name,
        fix="take a recipe of an encoder-decoder: objectives/t5-docstrings, "
        "objectives/bart-docstrings",
    )


def check_start(model: ModelConfig, vocabulary: Vocabulary) -> None:
    """Refuses a decoder that would start with a piece of text.

    Raises:
      UserError: names the special tokens.
    """
    assert isinstance(model, EncoderDecoderConfig)
    special = {**vocabulary.special_tokens}
    named = {number: f"{number} ({role})" for role, number in vocabulary.special_ids.items()}
    named |= {number: f"{number} ({token})" for token, number in special.items()}
    if model.decoder_start_token_id not in named:
        usual = vocabulary.special_ids.get("pad", vocabulary.document_end)
        raise UserError(
            "the decoder would start with a piece of text",
            where="model.decoder_start_token_id",
            expected="one of the tokenizer's special tokens: "
            + ", ".join(named[number] for number in sorted(named)[:8]),
            got=model.decoder_start_token_id,
            fix=f"set model.decoder_start_token_id={usual}",
        )


def fresh_side(tokens: jax.Array, segment_ids: jax.Array, positions: jax.Array) -> dict[str, Any]:
    """The second side's entries of a batch."""
    return {
        SIDE: tokens,
        f"{SIDE}_segment_ids": segment_ids,
        f"{SIDE}_positions": positions,
    }
