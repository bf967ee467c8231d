"""Masked language modelling (Devlin et al., 2018), with the mask drawn anew for each epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import MASKED_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.objectives.masking import choose, quota_table, random_tokens
from jaxssl.ops.losses import chunked_sum, cross_entropy, sequence_chunks
from jaxssl.parallel.axes import over_batch_shards


@dataclass(frozen=True, kw_only=True)
class MaskedLm(Objective):
    """Guess the tokens that were masked.

    Vocabulary work is done only where a label is: the hidden states of the chosen positions are
    gathered into a static number of slots before the head.
    """

    name: Literal["masked_lm"] = "masked_lm"
    """The objective."""
    rate: float = 0.15
    """Share of each document's tokens to choose."""
    mask_share: float = 0.8
    """Share of the chosen that become the mask token."""
    random_share: float = 0.1
    """Share of the chosen that become a random token; what is left stays as it is."""
    whole_words: bool = False
    """Choose whole words; each of their pieces is then masked, replaced or kept by itself, as in
    BERT."""
    max_predictions: int | None = None
    """Most tokens chosen in one document, as BERT's max_predictions_per_seq; null is no limit."""
    random_from_specials: bool = False
    """Draw random tokens from the whole vocabulary, special tokens too, as the original code
    does."""
    slots: int | None = None
    """Static number of predictions a row. null leaves room for one document, or, for rows with
    several, for rate * T and 32 more, since each document rounds by itself. Too few is an error,
    never a loss."""
    chunk: int = 128
    """Slots whose logits are held at once."""

    def __post_init__(self):
        check_at_least(1, self, "max_predictions", "slots", "chunk")
        if not 0 < self.rate < 1:
            raise UserError(
                "the masking rate is out of range",
                where="rate",
                expected="above 0 and below 1",
                got=self.rate,
            )
        check_at_least(0, self, "mask_share", "random_share")
        if self.mask_share + self.random_share > 1:
            raise UserError(
                "the shares of masked and random tokens do not fit",
                where="mask_share, random_share",
                expected="a sum of at most 1",
                got=(self.mask_share, self.random_share),
            )

    @property
    def heads(self) -> tuple[Head, ...]:
        """A transform over the token embedding."""
        return (MASKED_LM,)

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each guessed token."""
        return {"masked_lm": Loss(per_token=True, shown="masked LM", sees_both_sides=True)}

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The tokenizer needs a mask token and the model must see both sides."""
        if "mask" not in vocabulary.special_ids:
            raise UserError(
                "the tokenizer has no mask token",
                where="objective.name",
                expected="a tokenizer with the role `mask`",
                got="roles " + ", ".join(vocabulary.special_ids),
                fix="train one with `jaxssl tokenizer` (kind wordpiece), or use causal_lm",
            )
        if model.causal:
            raise UserError(
                "a causal model cannot be trained to fill masks",
                where="objective.name",
                expected="causal_lm, or a bidirectional model such as bert",
                got="masked_lm",
            )

    def num_slots(self, batch: Batch) -> int:
        """The static number of predictions a row."""
        if self.slots is not None:
            return self.slots
        length = batch["tokens"].shape[1]
        single = max(1, round(length * self.rate))
        if "token_types" in batch:  # rows of one document each
            return min(single, self.max_predictions or single)
        return min(length, single + 32)

    def check_rows(self, rows: Batch) -> None:
        """Refuses rows whose documents together want more predictions than there are slots."""
        segments = np.asarray(rows["segment_ids"])
        B, T = segments.shape
        flat = segments + np.arange(B)[:, None] * (T + 1)
        lengths = np.bincount(flat.ravel(), minlength=B * (T + 1)).reshape(B, T + 1)[:, 1:]
        most = int(quota_table(T, self.rate, self.max_predictions)[lengths].sum(axis=1).max())
        if most > self.num_slots(rows):
            raise UserError(
                "a row wants more predictions than there are slots",
                where="objective.slots",
                expected=f"at least {most}",
                got=self.num_slots(rows),
                fix=f"set objective.slots={-(-most * 5 // 32) * 8}",
            )

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Changes `tokens`; adds `mask_positions`, `mask_labels` int32 [B, P], and `mask_weights`
        float32 [B, P]."""
        reserved = vocabulary.reserved
        replaceable = () if self.random_from_specials else reserved
        slots = self.num_slots(batch)
        starts = jnp.asarray(vocabulary.word_starts) if self.whole_words else None
        T = batch["tokens"].shape[1]

        def row(key, tokens, segment_ids):
            where_key, how_key, what_key = jax.random.split(key, 3)
            candidates = (segment_ids > 0) & ~jnp.isin(tokens, jnp.asarray(reserved))
            begins = None if starts is None else starts[tokens]
            positions = choose(
                where_key,
                segment_ids,
                candidates,
                self.rate,
                slots,
                self.max_predictions,
                begins,
            )
            inside = jnp.minimum(positions, T - 1)
            labels = tokens[inside]
            how = jax.random.uniform(how_key, (slots,))
            other = random_tokens(what_key, (slots,), vocabulary.size, replaceable)
            new = jnp.where(how < self.mask_share + self.random_share, other, labels)
            new = jnp.where(how < self.mask_share, vocabulary.special_ids["mask"], new)
            tokens = tokens.at[positions].set(new.astype(tokens.dtype), mode="drop")
            return tokens, inside, labels, (positions < T).astype(jnp.float32)

        keys = example_keys(seed, batch)
        tokens, positions, labels, weights = jax.vmap(row)(
            keys, batch["tokens"], batch["segment_ids"]
        )
        return {
            "tokens": tokens,
            "mask_positions": positions,
            "mask_labels": labels,
            "mask_weights": weights,
        }

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """The number of chosen tokens."""
        return {"masked_lm": jnp.sum(batch["mask_weights"])}

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Cross entropy at the chosen positions."""
        slots = batch["mask_positions"].shape[1]
        count = -(-slots // self.chunk)
        short = -slots % count  # made up with slots without weight, so that chunks are equal

        def filled(x):
            return jnp.pad(x, ((0, 0), (0, short))) if short else x

        positions = filled(batch["mask_positions"])
        at = jnp.take_along_axis(outputs["hidden"], positions[..., None], axis=1)
        constants = (filled(batch["mask_labels"]), filled(batch["mask_weights"]))

        def one(params, hidden, constants):
            labels, weights = constants
            return cross_entropy(model.head(params, "masked_lm", hidden), labels, weights)

        def chunks(tree):
            return jax.tree.map(lambda x: sequence_chunks(x, count), tree)

        head = model.head_params(params, "masked_lm")
        loss, sums = chunked_sum(one, head, chunks(at), chunks(constants), over_batch_shards)
        weight = jnp.sum(batch["mask_weights"])
        metrics = {
            "nll/masked_lm": (sums["nll"], weight),
            "accuracy/masked_lm": (sums["correct"], weight),
        }
        return Sums({"masked_lm": loss}, metrics)
