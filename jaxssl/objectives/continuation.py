"""Prefix language modelling of encoder-decoders (Raffel et al., 2020, section 3.2.3): a text is cut
in two, the encoder reads its beginning and the decoder writes the rest. T5's 1.1 models were made
fit for prompts in this way (Lester et al., 2021).

Source: google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py (`prefix_lm`,
`random_prefix_noise_mask`): every place of the cut is as likely, both sides get a token at least,
there are no sentinels, and both end with the token that ends a document. Each document of a row is
cut by itself, as there each piece of one; one of a single token has nothing to write. With `joined`
a row is one text whatever documents it is made of, as in span corruption. `prefix_lm` is the same
for a model of one stack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_above_zero, check_share
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Vocabulary
from jaxssl.objectives.base import Loss
from jaxssl.objectives.two_sided import TwoSided, fresh_side
from jaxssl.ops.ragged import Places, lengths_of


@dataclass(frozen=True, kw_only=True)
class Continuation(TwoSided):
    """Write how a text goes on."""

    name: Literal["continuation"] = "continuation"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    target_share: float | None = None
    """Share of each text that is written, its end; null draws the place of the cut, each as
    likely. Of a share rows are shorter: 0.25 needs a third of the decoder's places."""
    joined: bool = False
    """A row is one text; else each of its documents is one, as in T5."""

    def __post_init__(self):
        super().__post_init__()
        if self.target_share is not None:
            check_share(self, "target_share")
            check_above_zero(self, "target_share")

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Nats for each token that is written; none is seen before it is."""
        return {self.name: Loss(per_token=True)}

    def written(self, lengths: np.ndarray) -> np.ndarray:
        """Tokens that are written of texts of so many, at the most: int32."""
        most = np.maximum(lengths - 1, 0)
        if self.target_share is None:
            return most.astype(np.int32)
        share = np.round(lengths * self.target_share)
        return np.minimum(np.maximum(share, 1), most).astype(np.int32)

    def read(self, lengths: np.ndarray) -> np.ndarray:
        """Tokens that are read of texts of so many, at the most."""
        return lengths - (self.written(lengths) if self.target_share is not None else 1)

    def raw_length(self, length: int) -> int:
        """The longest text that makes no side longer than `length`, with the token that ends it."""
        if not self.joined:
            return length
        lengths = np.arange(2, 2 * length)
        sides = np.maximum(self.read(lengths), self.written(lengths)) + 1
        fitting = lengths[sides <= length]
        if not len(fitting):
            raise UserError(
                "rows of this length cannot be cut in two",
                where="data.sequence_length",
                expected="2 tokens and more",
                got=length,
            )
        return int(fitting[-1])

    def lengths(self, raw: int) -> tuple[int, int]:
        """Places of either side for a row of `raw` tokens: the most there can be."""
        if self.joined:
            of_row = np.array(raw)
            return int(self.read(of_row)) + 1, int(self.written(of_row)) + 1
        each = np.arange(2, raw + 1)
        share = np.max((self.written(each) + 1) / each) if len(each) else 0
        return raw, max(1, int(np.ceil(share * raw)))

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Both sides. Rows of `raw_length` tokens become rows of the full length."""
        raw = batch["tokens"].shape[1]
        most, sizes = jnp.asarray(self.written(np.arange(raw + 1))), self.lengths(raw)
        padding = vocabulary.special_ids.get("pad", 0)
        options = dict(end=vocabulary.document_end, pad=padding)

        def row(key, tokens, segments):
            texts = jnp.minimum(segments, 1) if self.joined else segments
            lengths = lengths_of(texts)
            count = most[lengths]
            if self.target_share is None:
                drawn = jax.random.uniform(key, (raw + 1,))  # of each text, by its number
                count = jnp.minimum(count, 1 + jnp.floor(drawn * count).astype(jnp.int32))
            is_text = texts > 0
            left = jnp.cumsum(lengths)[texts] - jnp.arange(raw)  # tokens of its text from here on
            later = is_text & (left <= count[texts])
            sooner = is_text & ~later
            has_end = is_text & (left == 1) & (tokens == vocabulary.document_end)
            ended = jnp.zeros(raw + 1, bool).at[texts].max(has_end)
            read = Places.of(sooner.astype(jnp.int32), texts, count > 0)
            written = Places.of(later.astype(jnp.int32), texts, (count > 0) & ~ended)
            return (
                read.side([(read.last, sooner, tokens)], texts, sizes[0], **options),
                written.side([(written.last, later, tokens)], texts, sizes[1], **options),
            )

        keys = example_keys(seed, batch)
        inputs, targets = jax.vmap(row)(keys, batch["tokens"], batch["segment_ids"])
        return {**dict(zip(("tokens", "segment_ids", "positions"), inputs)), **fresh_side(*targets)}
