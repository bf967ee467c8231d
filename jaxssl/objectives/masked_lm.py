"""Masked language modelling (Devlin et al., 2018), with the mask drawn anew for each epoch.

How the references choose and replace is a matter of settings; `configs/objectives` has a recipe for
each, with what is done otherwise.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.ramp import Factor, Ramp, factor_at, last_of
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import MASKED_LM, Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Loss, Objective, Outputs, Sums
from jaxssl.objectives.masking.counts import Rounding, quota_table, quotas
from jaxssl.objectives.masking.replacing import positions_of, random_tokens
from jaxssl.objectives.masking.units import Row, Tokens, Units
from jaxssl.objectives.slots import gathered, shown, slot_sums

COUNTS = 1 << 25
"""What a row's key is folded with for the numbers of tokens to choose."""


@dataclass(frozen=True, kw_only=True)
class MaskedLm(Objective):
    """Guess the tokens that were masked.

    Vocabulary work is done only where a label is: the hidden states of the chosen positions are
    gathered into a static number of slots before the head.
    """

    name: Literal["masked_lm"] = "masked_lm"
    """The objective."""
    rate: Factor = 0.15
    """Share of each document's tokens to choose: a number, or one that moves with the run,
    {points: [[0, 0.3], [10000, 0.15]]} by steps. Validation takes the last."""
    units: Units = Tokens()
    """What is chosen as a whole."""
    rounding: Rounding = "nearest"
    """Of the number of tokens to choose: to the nearest, at least 1 (BERT), up (SpanBERT), or up
    with the probability of what is behind the comma (RoBERTa)."""
    counts_specials: bool = True
    """Whether special tokens count for the number to choose; they are never chosen."""
    mask_share: float = 0.8
    """Share of the chosen that become the mask token."""
    random_share: float = 0.1
    """Share of the chosen that become a random token; what is left stays as it is."""
    replaces_units: bool = False
    """Whether all tokens of a unit are masked, replaced or kept together (RoBERTa's words, spans);
    else each by itself, as in BERT."""
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
        if not all(0 < rate < 1 for rate in self.rates):
            raise UserError(
                "the masking rate is out of range",
                where="rate",
                expected="above 0 and below 1",
                got=self.rate if isinstance(self.rate, float) else list(self.rates),
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
    def rates(self) -> tuple[float, ...]:
        """Those that the rate moves between; one where it does not."""
        if isinstance(self.rate, Ramp):
            return tuple(value for _, value in self.rate.points)
        return (self.rate,)

    def most(self, longest: int) -> np.ndarray:
        """The most tokens to choose of a document of each length: int32 [longest + 1]."""
        return quota_table(longest, max(self.rates), self.max_predictions, self.rounding)

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
        check_mask_token(vocabulary)
        check_both_sides(model, self.name)

    @property
    def reads_marks(self) -> bool:
        """Whether its units do."""
        return self.units.reads_marks

    def num_slots(self, batch: Batch) -> int:
        """The static number of predictions a row."""
        if self.slots is not None:
            return self.slots
        length = batch["tokens"].shape[1]
        if "token_types" in batch:  # rows of one document each
            return int(self.most(length)[length])
        single = quota_table(length, max(self.rates), None, self.rounding)[length]
        return min(length, int(single) + 32)

    def check_rows(self, rows: Batch) -> None:
        """Refuses rows whose documents together want more predictions than there are slots, and
        rows without the marks that the units prefer."""
        if self.reads_marks and "marks" not in rows:
            raise UserError(
                "labelled tables have no marked spans",
                where="objective.units",
                expected="units that need none, such as words",
                got=self.units.name,
                fix="give the objective a stream of its own over a token store with marks "
                "(`jaxssl prepare ... gazetteer.path=FILE`)",
            )
        segments = np.asarray(rows["segment_ids"])
        B, T = segments.shape
        flat = segments + np.arange(B)[:, None] * (T + 1)
        lengths = np.bincount(flat.ravel(), minlength=B * (T + 1)).reshape(B, T + 1)[:, 1:]
        most = int(self.most(T)[lengths].sum(axis=1).max())
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
        slots, starts = self.num_slots(batch), jnp.asarray(vocabulary.word_starts)
        T = batch["tokens"].shape[1]

        def row(rate, key, tokens, segment_ids, marks=None):
            where_key, how_key, what_key = jax.random.split(key, 3)
            candidates = (segment_ids > 0) & ~jnp.isin(tokens, jnp.asarray(reserved))
            counted = jnp.where(self.counts_specials | candidates, segment_ids, 0)
            lengths = jnp.zeros(T + 1, jnp.int32).at[counted].add(1).at[0].set(0)
            count_key = jax.random.fold_in(where_key, COUNTS)
            quota = quotas(
                count_key, lengths, rate, self.rounding, self.max_predictions, self.most(T)
            )
            chosen = self.units.choose(
                where_key, Row(segment_ids, candidates, starts[tokens], quota, marks)
            )
            positions = positions_of(chosen.tokens, slots)
            inside = jnp.minimum(positions, T - 1)
            labels = tokens[inside]
            how = jax.random.uniform(how_key, (slots,))
            if self.replaces_units:
                how = how[jnp.maximum(jnp.cumsum(chosen.begins)[inside] - 1, 0)]
            other = random_tokens(what_key, (slots,), vocabulary.size, replaceable)
            new = jnp.where(how < self.mask_share + self.random_share, other, labels)
            new = jnp.where(how < self.mask_share, vocabulary.special_ids["mask"], new)
            tokens = tokens.at[positions].set(new.astype(tokens.dtype), mode="drop")
            return tokens, inside, labels, (positions < T).astype(jnp.float32)

        keys = example_keys(seed, batch)
        rows = (keys, batch["tokens"], batch["segment_ids"])
        rows += (batch["marks"],) if self.reads_marks else ()
        if isinstance(self.rate, Ramp) and "step" in batch:
            rates = factor_at(self.rate, batch["step"], jnp.interp)
            made = jax.vmap(row)(rates, *rows)
        else:
            made = jax.vmap(functools.partial(row, last_of(self.rate)))(*rows)
        tokens, positions, labels, weights = made
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
        loss, sums = slot_sums(
            model,
            params,
            "masked_lm",
            gathered(outputs["hidden"], batch["mask_positions"]),
            batch["mask_labels"],
            batch["mask_weights"],
            self.chunk,
        )
        metrics = shown("masked_lm", sums, jnp.sum(batch["mask_weights"]))
        return Sums({"masked_lm": loss}, metrics)


def check_mask_token(vocabulary: Vocabulary) -> None:
    """Refuses a tokenizer without a mask token. Raises UserError."""
    if "mask" not in vocabulary.special_ids:
        raise UserError(
            "the tokenizer has no mask token",
            where="objective.name",
            expected="a tokenizer with the role `mask`",
            got="roles " + ", ".join(vocabulary.special_ids),
            fix="train one with `jaxssl tokenizer` (kind=wordpiece, or kind=byte_bpe "
            "extra_roles=[mask]), or use causal_lm",
        )


def check_both_sides(model: ModelConfig, name: str) -> None:
    """Refuses a model that sees what comes before alone. Raises UserError."""
    if model.causal:
        raise UserError(
            "a causal model cannot be trained to fill masks",
            where="objective.name",
            expected="causal_lm, or a bidirectional model such as bert",
            got=name,
            fix="set objective.name=causal_lm, or take a recipe of a bidirectional model "
            "(objectives/bert-docstrings)",
        )
