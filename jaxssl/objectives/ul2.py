"""UL2's mixture of denoisers (Tay et al., 2022): each text is corrupted in one of several ways,
and a token at the beginning of the inputs says in which.

Regular denoisers cut out short spans of few tokens, as T5; extreme ones long spans, or half of the
text; a sequential one cuts off its end, which is a prefix language model for encoder-decoders. That
one alone is `denoisers: [{mode: sequential, rate: 0.25}]`.

Lengths: a row that is one text has as many tokens as the denoiser that cuts out least can read into
the length of the model: 567 for 512, of which the token of the mode is one. Shapes are those of the
largest inputs and targets, 512 and 380 tokens; in the mean 417 and 201 of these are used. No side
is ever longer than the length of the model.

Sources: the seven are those of the paper, section 3.1.2; spans are cut as in its appendix 9.2, by
T5's own code. The sequential one is, as in section 3.1.2, a quarter of the text and one span, so it
is written like all others: the inputs end with one sentinel (as in the prompts of the released
model's card), and the targets begin with it. Appendix 9.2 cuts at a random place instead, without
sentinels.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.bounds import check_above_zero, check_at_least, check_share, check_unused
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Vocabulary
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.sentinels import check_sentinels, sentinels_of
from jaxssl.objectives.span_corruption import two_sides
from jaxssl.objectives.two_sided import TwoSided, fresh_side
from jaxssl.ops.ragged import lengths_of
from jaxssl.ops.span_noise import SpanCounts, random_spans

Mode = Literal["regular", "extreme", "sequential"]


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """One way to corrupt a text."""

    mode: Mode
    """What is said at the beginning of the inputs. A sequential one cuts one span, at the end."""
    rate: float
    """Share of the tokens that are noise."""
    mean_span: float = 3.0
    """Tokens of a span, in the mean; not for a sequential one."""
    weight: float = 1.0
    """How many texts it gets, compared with the others."""

    def __post_init__(self):
        check_share(self, "rate")
        check_above_zero(self, "rate", "weight")
        check_at_least(1, self, "mean_span")
        if self.mode == "sequential":
            check_unused(self, ["mean_span"], where="with mode=sequential, which cuts one span")

    @property
    def counts(self) -> SpanCounts:
        """How many tokens and spans of a text are noise."""
        is_one = self.mode == "sequential"
        return SpanCounts(self.rate, math.inf if is_one else self.mean_span)


SEVEN = (
    Denoiser(mode="regular", rate=0.15, mean_span=3.0),
    Denoiser(mode="regular", rate=0.15, mean_span=8.0),
    Denoiser(mode="extreme", rate=0.5, mean_span=3.0),
    Denoiser(mode="extreme", rate=0.5, mean_span=8.0),
    Denoiser(mode="extreme", rate=0.15, mean_span=64.0),
    Denoiser(mode="extreme", rate=0.5, mean_span=64.0),
    Denoiser(mode="sequential", rate=0.25, weight=1.5),
)
"""Those of the paper, the sequential one for a fifth of the texts."""


@dataclass(frozen=True, kw_only=True)
class Ul2(TwoSided):
    """Write what was cut out of a text, in one of several ways."""

    name: Literal["ul2"] = "ul2"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    denoisers: tuple[Denoiser, ...] = SEVEN
    """The ways, of which each text draws one, by their weights."""
    joined: bool = True
    """A row is one text; else each of its documents is one."""
    shortest: int = 16
    """Documents of fewer tokens stay as they are and have no targets: with a sentinel and the token
    at the beginning their inputs might be longer than they are. With `joined: false` alone."""
    regular_token: str | None = "[NLU]"
    """Special token before texts of regular denoisers; null is none."""
    extreme_token: str | None = "[NLG]"
    """Special token before those of extreme ones."""
    sequential_token: str | None = "[S2S]"
    """Special token before those of sequential ones."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "shortest")
        if self.joined:
            check_unused(self, ["shortest"], where="with joined=true")
        if not self.denoisers:
            raise UserError(
                "no way to corrupt a text",
                where="denoisers",
                expected="at least one, such as {mode: regular, rate: 0.15, mean_span: 3}",
                got="none",
            )

    @property
    def shares(self) -> np.ndarray:
        """Of the texts that each denoiser gets: float64 [D]."""
        weights = np.array([denoiser.weight for denoiser in self.denoisers])
        return weights / weights.sum()

    @property
    def mode_tokens(self) -> tuple[str | None, ...]:
        """What the inputs of each denoiser begin with."""
        by_mode: dict[Mode, str | None] = {
            "regular": self.regular_token,
            "extreme": self.extreme_token,
            "sequential": self.sequential_token,
        }
        return tuple(by_mode[denoiser.mode] for denoiser in self.denoisers)

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """An encoder-decoder, and a tokenizer with sentinels and the tokens of the modes."""
        super().check(model, vocabulary)
        wanted = [token for token in dict.fromkeys(self.mode_tokens) if token is not None]
        missing = [token for token in wanted if token not in vocabulary.special_tokens]
        if missing:
            written = ",".join(f'"{token}"' for token in wanted)
            raise UserError(
                "the tokenizer lacks special tokens that say how a text was corrupted",
                where="objective.regular_token, extreme_token, sequential_token",
                expected="some of its special tokens: "
                + (", ".join([*vocabulary.special_tokens][:8]) or "it has none"),
                got=", ".join(missing),
                fix=f"train it with them: jaxssl tokenizer 'special_tokens=[{written}]' "
                "sentinels=100",
            )
        check_sentinels(vocabulary)

    def raw_length(self, length: int) -> int:
        """The longest text of which no denoiser makes more than `length` tokens on either side."""
        if not self.joined:
            self._check_growth(length)
            return length
        raw = np.arange(2, 4 * length + 8)
        fits = [np.all(np.stack(sides) <= length, axis=0) for sides in self._sides(raw)]
        fitting = raw[np.all(fits, axis=0)]
        if not len(fitting):
            raise UserError(
                "rows of this length cannot be made of corrupted text",
                where="data.sequence_length",
                expected="5 tokens and more",
                got=length,
            )
        return int(fitting[-1])

    def _sides(self, lengths: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each denoiser, the tokens of inputs and of targets of texts of so many."""
        found = []
        for denoiser, token in zip(self.denoisers, self.mode_tokens):
            noise, spans = denoiser.counts.noise(lengths), denoiser.counts.spans(lengths)
            inputs = lengths - noise + spans + (token is not None) + self.joined
            found.append((inputs, noise + spans + 1))
        return found

    def _check_growth(self, length: int) -> None:
        """Refuses denoisers that would make documents longer than they are: a row has room for
        these alone."""
        lengths = np.arange(1, length + 1)
        if self.shortest > length:
            raise UserError(
                "no document of a row is long enough to be corrupted",
                where="objective.shortest",
                expected=f"at most {length}, the tokens of a row",
                got=self.shortest,
            )
        for denoiser, (inputs, _) in zip(self.denoisers, self._sides(lengths)):
            growing = lengths[(inputs > lengths) & (lengths >= self.shortest)]
            if len(growing):
                raise UserError(
                    "the inputs of short documents would be longer than these",
                    where="objective.shortest, objective.denoisers",
                    expected="spans of two tokens and more, in all documents that are corrupted",
                    got=f"documents of {growing[-1]} tokens, corrupted by {denoiser}",
                    fix="give it longer spans"
                    if growing[-1] == length
                    else f"set objective.shortest={growing[-1] + 1}",
                )

    def tables(self, raw: int) -> tuple[np.ndarray, np.ndarray]:
        """Noisy tokens and spans that each denoiser makes of texts of 0 to `raw` tokens: int32
        [D, raw + 1]."""
        lengths = np.arange(raw + 1)
        noise = np.stack([denoiser.counts.noise(lengths) for denoiser in self.denoisers])
        spans = np.stack([denoiser.counts.spans(lengths) for denoiser in self.denoisers])
        if not self.joined:
            rates = np.array([denoiser.rate for denoiser in self.denoisers])
            has_noise = (np.round(np.outer(rates, lengths)) > 0) & (lengths >= self.shortest)
            noise, spans = noise * has_noise, spans * has_noise
        return noise.astype(np.int32), spans.astype(np.int32)

    def lengths(self, raw: int) -> tuple[int, int]:
        """Tokens of the inputs and of the targets of a row of `raw` tokens: the most there can
        be."""
        if self.joined:
            inputs, targets = np.max(self._sides(np.array(raw)), axis=0)
            return int(inputs), int(targets)
        noise, spans = self.tables(raw)
        written = np.where(noise > 0, noise + spans + 1, 0)[:, 1:]
        return raw, max(1, int(np.ceil(np.max(written / np.arange(1, raw + 1)) * raw)))

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Both sides. Rows of `raw_length` tokens become rows of the full length."""
        raw = batch["tokens"].shape[1]
        noise_of, spans_of = self.tables(raw)
        check_sentinels(vocabulary, int(spans_of.max()), f"the spans of {raw} tokens")
        sizes, sentinels = self.lengths(raw), jnp.asarray(sentinels_of(vocabulary))
        below = jnp.asarray(np.cumsum(self.shares)[:-1], jnp.float32)
        modes = jnp.array(
            [
                -1 if token is None else vocabulary.special_tokens[token]
                for token in self.mode_tokens
            ]
        )

        def row(key, tokens, segments):
            which_key, where_key = jax.random.split(key)
            texts = jnp.minimum(segments, 1) if self.joined else segments
            drawn = jax.random.uniform(which_key, (raw + 1, 1))  # of each text, by its number
            which, lengths = jnp.sum(drawn >= below, axis=1), lengths_of(texts)
            counts = jnp.asarray(noise_of)[which, lengths], jnp.asarray(spans_of)[which, lengths]
            spans = random_spans(where_key, texts, *counts)
            return two_sides(
                tokens,
                texts,
                spans,
                sentinels,
                sizes,
                end=vocabulary.document_end,
                pad=vocabulary.special_ids.get("pad", 0),
                ends=self.joined,
                modes=modes[which],
            )

        keys = example_keys(seed, batch)
        inputs, targets = jax.vmap(row)(keys, batch["tokens"], batch["segment_ids"])
        return {**dict(zip(("tokens", "segment_ids", "positions"), inputs)), **fresh_side(*targets)}
