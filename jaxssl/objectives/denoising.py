"""Denoising (Lewis et al., 2020: BART): a text is corrupted, and the whole of it is written again.

Its sentences change their places (`permuted`), spans of it become one mask each (`infilling`), and,
for those who want to compare, tokens are masked (`masked`) or left out (`deleted`) one by one and
texts begin at a random token (`rotated`), in this order. BART has the first two, which are the
defaults. Inputs are what is left; targets are the text as it was.

Every document of a row is corrupted for itself. Special tokens keep their places: what stands
between two of them is a text of its own. Inputs are never longer than the text.

`variant: exact`, the default. Of a text of n tokens, round(n * infilling) are in spans,
round(n * masked) are masked and round(n * deleted) are left out, every time. Lengths of spans are
Poisson's, the last one cut to what is left; spans do not overlap. One of no token is a mask put in:
it counts as a span, and a text has no more spans than tokens in them. A sentence ends with a piece
of `Vocabulary.sentence_ends`, the last one where several follow each other, and with the text.

`variant: fairseq` draws as facebookresearch/fairseq does (data/denoising_dataset.py), where shares
are of words and rounded up, spans begin at words, run over whole words, may overlap and end with
the text (so of 512 words 26.7% are masked where 30% are asked for), and masks of empty spans are
put in behind that. The first of several full stops ends a sentence, and of a text that ends in two
the last one stays where it is. Still done otherwise here: all pieces that end a sentence do (there
the full stop of GPT-2's alone, and with another tokenizer none); what a word is the tokenizer says;
a text has no more spans than words, and no more masks put in than tokens left out; random tokens
are no special ones, and each mask put in is one by a coin of its own; infilling, masks and
deletions are not mixed, as they cannot be there.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Vocabulary
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.masked_lm import check_mask_token
from jaxssl.objectives.masking.replacing import random_tokens
from jaxssl.objectives.two_sided import TwoSided, fresh_side
from jaxssl.ops.ragged import Side
from jaxssl.ops.text_noise import (
    Counts,
    Noised,
    Stretches,
    first_of,
    infilled,
    infilled_by_words,
    moved_sentences,
    poisson_limits,
    rotated,
)

REPLACING = ("infilling", "masked", "deleted")
"""The kinds of noise that take tokens away."""
WHOLE = ("permuted", "rotated")
"""Those that move them."""


@dataclass(frozen=True, kw_only=True)
class Denoising(TwoSided):
    """Write a text again that was corrupted."""

    name: Literal["denoising"] = "denoising"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    infilling: float = 0.3
    """Share of the tokens that are in spans, of which a mask each is left; mBART has 0.35."""
    mean_span: float = 3.0
    """Tokens of a span, in the mean; mBART has 3.5."""
    permuted: float = 1.0
    """Share of the sentences that change places among themselves."""
    rotated: float = 0.0
    """Share of the texts that begin at one of their tokens, with what was before it at the end."""
    masked: float = 0.0
    """Share of the tokens that become a mask each."""
    deleted: float = 0.0
    """Share of the tokens that are left out."""
    random_share: float = 0.0
    """Share of the masks in whose place a random token stands."""
    variant: Literal["exact", "fairseq"] = "exact"
    """Counts that are exact, or drawn as fairseq does."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "mean_span")
        for name in (*REPLACING, *WHOLE, "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    "a share is out of range",
                    where=name,
                    expected="from 0 to 1",
                    got=getattr(self, name),
                )
        given = {name: getattr(self, name) for name in REPLACING if getattr(self, name)}
        if sum(given.values()) >= 1:
            raise UserError(
                "nothing would be left of a text",
                where="infilling, masked, deleted",
                expected="less than 1 together",
                got=sum(given.values()),
            )
        if self.variant == "fairseq" and len(given) > 1:
            raise UserError(
                "fairseq has one kind of noise that takes tokens away",
                where=", ".join(given),
                expected="one of them above 0",
                got=", ".join(map(str, given.values())),
                fix="set variant=exact",
            )
        if not given and not self.permuted and not self.rotated:
            raise UserError(
                "no text would be corrupted",
                where=", ".join((*REPLACING, *WHOLE)),
                expected="one of them above 0",
                got=0,
            )

    @property
    def is_fairseq(self) -> bool:
        """Whether noise is drawn as fairseq does."""
        return self.variant == "fairseq"

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """An encoder-decoder, and a tokenizer with a mask and with pieces that end sentences, where
        these are needed."""
        super().check(model, vocabulary)
        if self.infilling or self.masked:
            check_mask_token(vocabulary)
        if self.permuted and not vocabulary.sentence_ends.any():
            raise UserError(
                "the tokenizer has no piece that ends a sentence, so that sentences could move",
                where="objective.permuted",
                expected="a tokenizer with a piece for one of . ! ?",
                got="none",
                fix="set objective.permuted=0",
            )

    def sentences(self, most: int) -> np.ndarray:
        """How many of 0 to `most` sentences change places, int32 [most + 1]."""
        numbers = np.arange(most + 1) * self.permuted
        return (np.ceil if self.is_fairseq else np.round)(numbers).astype(np.int32)

    def share_of(self, share: float, most: int) -> np.ndarray:
        """How many of 0 to `most` tokens or words are that share, int32 [most + 1]."""
        numbers = np.arange(most + 1)
        if self.is_fairseq:  # which multiplies in float32
            return np.ceil(numbers.astype(np.float32) * np.float32(share)).astype(np.int32)
        return np.round(numbers * share).astype(np.int32)

    def counts(self, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How many tokens of texts of 0 to `most` are in spans, masked and left out, int32
        [most + 1] each; of every text one is left, or a mask."""
        tokens = np.arange(most + 1)
        cut = np.minimum(self.share_of(self.infilling, most), tokens)
        masked = np.minimum(self.share_of(self.masked, most), tokens - cut)
        marks = cut + masked
        left = np.maximum(tokens - marks - (marks == 0), 0)
        return (cut, masked, np.minimum(self.share_of(self.deleted, most), left))

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Both sides, each of as many tokens as the rows that were read."""
        corruption = _Corruption(self, vocabulary, batch["tokens"].shape[1])
        keys = example_keys(seed, batch)
        inputs = jax.vmap(corruption)(keys, batch["tokens"], batch["segment_ids"])
        return {
            **dict(zip(("tokens", "segment_ids", "positions"), inputs)),
            **fresh_side(batch["tokens"], batch["segment_ids"], _positions(batch["segment_ids"])),
        }


class _Corruption:
    """What an objective makes of rows of R tokens of a vocabulary, and its tables for it."""

    def __init__(self, objective: Denoising, vocabulary: Vocabulary, R: int):
        self.objective, self.vocabulary = objective, vocabulary
        self.special = jnp.array(vocabulary.reserved, jnp.int32)
        self.limits = jnp.asarray(poisson_limits(objective.mean_span))
        self.counts = Counts(*map(jnp.asarray, objective.counts(R)))
        self.words = objective.share_of(objective.infilling, R)
        is_all = objective.permuted == 1
        self.moved = None if is_all else objective.sentences(R)

    def __call__(self, key: jax.Array, tokens: jax.Array, segment_ids: jax.Array) -> Side:
        """The inputs that are made of one row [R]."""
        move_key, noise_key, random_key, turn_key = jax.random.split(key, 4)
        fixed = (segment_ids == 0) | jnp.isin(tokens, self.special)
        stretches = Stretches.between(segment_ids, fixed)
        if self.objective.permuted:
            tokens = tokens[self._moved(move_key, stretches, tokens, fixed)]
        noised = self._noised(noise_key, stretches, tokens, fixed)
        tokens = jnp.where(
            noised.is_mask, self._marks(random_key, len(tokens)), tokens[noised.source]
        )

        there = noised.there & (segment_ids > 0)
        used = jnp.arange(len(tokens)) < jnp.sum(there)
        order = first_of(there)
        if self.objective.rotated:
            turned = Stretches.of(jnp.where(used, stretches.number[order], len(tokens)))
            share = jnp.where(fixed[order], 0.0, self.objective.rotated)
            past_end = self.objective.is_fairseq
            order = order[rotated(turn_key, turned, share, past_end=past_end)]
        pad = self.vocabulary.special_ids.get("pad", 0)
        segment_ids = jnp.where(used, segment_ids[order], 0)
        return jnp.where(used, tokens[order], pad), segment_ids, _positions(segment_ids)

    def _moved(
        self, key: jax.Array, stretches: Stretches, tokens: jax.Array, fixed: jax.Array
    ) -> jax.Array:
        stops = jnp.asarray(self.vocabulary.sentence_ends)[tokens] & ~fixed
        if self.objective.is_fairseq:
            stops |= stretches.is_last & ~fixed
            ends = stops & ~(jnp.pad(stops, (1, 0))[:-1] & (stretches.place > 0))
        else:
            ends = stops & ~jnp.pad(stops, (0, 1))[1:] | stretches.is_last
        return moved_sentences(key, stretches, ends & ~fixed, self.moved)

    def _noised(
        self, key: jax.Array, stretches: Stretches, tokens: jax.Array, fixed: jax.Array
    ) -> Noised:
        if self.objective.is_fairseq and self.objective.infilling:
            starts = jnp.asarray(self.vocabulary.word_starts)[tokens] & ~fixed
            return infilled_by_words(key, stretches, starts, self.words, self.limits)
        size = jnp.where(fixed, 0, stretches.size)
        return infilled(key, stretches, Counts(*(c[size] for c in self.counts)), self.limits)

    def _marks(self, key: jax.Array, count: int) -> jax.Array:
        """What stands at each place if a mask does: int32 [count]."""
        mask = self.vocabulary.special_ids.get("mask", 0)
        if not self.objective.random_share:
            return jnp.full(count, mask, jnp.int32)
        which_key, what_key = jax.random.split(key)
        is_random = jax.random.uniform(which_key, (count,)) < self.objective.random_share
        other = random_tokens(what_key, (count,), self.vocabulary.size, self.vocabulary.reserved)
        return jnp.where(is_random, other, mask)


def _positions(segment_ids: jax.Array) -> jax.Array:
    """Of the tokens in their documents: int32, of the shape of the segments [..., T]."""
    here = jnp.arange(segment_ids.shape[-1], dtype=jnp.int32)
    changes = segment_ids[..., 1:] != segment_ids[..., :-1]
    first = jnp.concatenate([jnp.ones_like(changes[..., :1]), changes], axis=-1)
    begins = jax.lax.cummax(jnp.where(first, here, 0), axis=first.ndim - 1)
    return jnp.where(segment_ids > 0, here - begins, 0)
