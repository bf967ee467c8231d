"""Span corruption (Raffel et al., 2020): spans of a text are replaced by sentinels, and what stood
there is written.

Inputs are the text with `<extra_id_0>`, `<extra_id_1>`, ... in the place of the spans; targets are
each sentinel and the tokens of its span. Both end with the token that ends a document. A row of
568 tokens has 85 noisy ones in 28 spans, every time: 512 inputs and 114 targets.

Source: google-research/text-to-text-transfer-transformer, t5/data/preprocessors.py
(`span_corruption`). As there, a row is one text whatever documents it is made of, and they are told
apart by the token between them alone. With `joined: false` each document is corrupted by itself,
with its own counts and sentinels, and nothing crosses; one whose `rate` rounds to no token has no
targets (there one token is always noise).
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
from jaxssl.objectives.sentinels import check_sentinels, sentinels_of
from jaxssl.objectives.two_sided import TwoSided, fresh_side
from jaxssl.ops.ragged import Places, Side, lengths_of
from jaxssl.ops.span_noise import SpanCounts, Spans, random_spans


@dataclass(frozen=True, kw_only=True)
class SpanCorruption(TwoSided):
    """Write the spans that were cut out of a text."""

    name: Literal["span_corruption"] = "span_corruption"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    rate: float = 0.15
    """Share of the tokens that are noise."""
    mean_span: float = 3.0
    """Tokens of a span, in the mean."""
    joined: bool = True
    """A row is one text, as in T5; else each of its documents is one."""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.rate < 1:
            raise UserError(
                "not a share of the tokens",
                where="rate",
                expected="above 0 and below 1",
                got=self.rate,
            )
        check_at_least(1, self, "mean_span")

    @property
    def counts(self) -> SpanCounts:
        """How many tokens and spans of a text are noise."""
        return SpanCounts(self.rate, self.mean_span)

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """An encoder-decoder, and a tokenizer with sentinels."""
        super().check(model, vocabulary)
        check_sentinels(vocabulary)

    def raw_length(self, length: int) -> int:
        """The longest text whose inputs have `length` tokens; 568 for 512."""
        if not self.joined:
            return length
        lengths = np.arange(2, 4 * length + 8)
        inputs = lengths - self.counts.noise(lengths) + self.counts.spans(lengths) + 1
        fitting = lengths[inputs <= length]
        if not len(fitting) or fitting[-1] == lengths[-1]:
            raise UserError(
                "rows of this length cannot be made of corrupted text",
                where="data.sequence_length, objective.rate, objective.mean_span",
                expected="4 tokens and more, and a rate below 0.75",
                got=f"{length} tokens, of which {self.rate} are noise",
            )
        return int(fitting[-1])

    def tables(self, raw: int) -> tuple[np.ndarray, np.ndarray]:
        """Noisy tokens and spans of texts of 0 to `raw` tokens, int32."""
        lengths = np.arange(raw + 1)
        noise, spans = self.counts.noise(lengths), self.counts.spans(lengths)
        if not self.joined:
            has_noise = np.round(lengths * self.rate) > 0
            noise, spans = noise * has_noise, spans * has_noise
        return noise.astype(np.int32), spans.astype(np.int32)

    def lengths(self, raw: int) -> tuple[int, int]:
        """Tokens of the inputs and of the targets of a row of `raw` tokens: the most there can
        be."""
        noise, spans = self.tables(raw)
        if self.joined:
            return raw - int(noise[-1] - spans[-1]) + 1, int(noise[-1] + spans[-1]) + 1
        written = np.where(noise > 0, noise + spans + 1, 0)
        share = np.max(written[1:] / np.arange(1, raw + 1))
        return raw, max(1, int(np.ceil(share * raw)))

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Both sides. Rows of `raw_length` tokens become rows of the full length."""
        raw = batch["tokens"].shape[1]
        noise_of, spans_of = self.tables(raw)
        check_sentinels(vocabulary, int(spans_of.max()), f"the spans of {raw} tokens")
        sizes, sentinels = self.lengths(raw), jnp.asarray(sentinels_of(vocabulary))

        def row(key, tokens, segments):
            texts = jnp.minimum(segments, 1) if self.joined else segments
            lengths = lengths_of(texts)
            counts = jnp.asarray(noise_of)[lengths], jnp.asarray(spans_of)[lengths]
            spans = random_spans(key, texts, *counts)
            return two_sides(
                tokens,
                texts,
                spans,
                sentinels,
                sizes,
                end=vocabulary.document_end,
                pad=vocabulary.special_ids.get("pad", 0),
                ends=self.joined,
            )

        keys = example_keys(seed, batch)
        inputs, targets = jax.vmap(row)(keys, batch["tokens"], batch["segment_ids"])
        return {**dict(zip(("tokens", "segment_ids", "positions"), inputs)), **fresh_side(*targets)}


def two_sides(
    tokens: jax.Array,
    texts: jax.Array,
    spans: Spans,
    sentinels: jax.Array,
    sizes: tuple[int, int],
    *,
    end: int,
    pad: int,
    ends: bool,
    modes: jax.Array | None = None,
) -> tuple[Side, Side]:
    """Inputs and targets of one row.

    Args:
      tokens, texts: int32 [R]; texts are numbered from 1 on, 0 is padding.
      spans: what of them is noise.
      sentinels: the ids of spans 0, 1, ...
      sizes: tokens of either side.
      end, pad: the ids that end a text, and that stand behind all.
      ends: whether inputs end so, too; targets always do.
      modes: int32 [R + 1], of each text the token that the inputs of those with noise begin with;
        below 0 is none.
    """
    noisy, is_text = spans.noisy, texts > 0
    goes_on = noisy[:-1] & (texts[1:] == texts[:-1])
    is_first = noisy & ~jnp.pad(goes_on, (1, 0))
    marks = sentinels[jnp.minimum(spans.number, len(sentinels) - 1)]
    if modes is None:
        modes = jnp.full(len(texts) + 1, -1, jnp.int32)
    has_mode = (modes >= 0) & (spans.noise > 0)
    opens = has_mode[texts] & (texts != jnp.pad(texts, (1, 0))[:-1])  # a first token is no noise

    kept = is_text & (~noisy | is_first)
    inputs = Places.of(kept + opens.astype(jnp.int32), texts, (lengths_of(texts) > 0) & ends)
    read = [
        (inputs.last, kept, jnp.where(noisy, marks, tokens)),
        (inputs.last - 1, opens, modes[texts]),
    ]
    targets = Places.of(noisy + is_first.astype(jnp.int32), texts, spans.noise > 0)
    written = [(targets.last, noisy, tokens), (targets.last - 1, is_first, marks)]
    options = dict(end=end, pad=pad)
    return inputs.side(read, texts, sizes[0], **options), targets.side(
        written, texts, sizes[1], **options
    )
