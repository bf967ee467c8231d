"""How texts are written: what a user may choose."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

from jaxssl.core.bounds import check_at_least, check_seed, check_unused
from jaxssl.core.errors import UserError

MOST_BY_DEFAULT = 64

LengthPenalty = Literal["mean", "power", "gnmt", "none"]
"""What the log-probability of a text of n tokens is divided by: n, n^alpha, ((5 + n) / 6)^alpha
(Wu et al., 2016), or nothing."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int | None = None
    """Most tokens to add to a prompt; null is what is left of the length that the model was trained
    at, at most 64."""
    min_new_tokens: int = 0
    """Fewest tokens to add before a text may end."""
    temperature: float = 0.8
    """0 always takes the most likely token."""
    top_k: int | None = 50
    """Choose among the k most likely; null among all."""
    top_p: float | None = None
    """Choose among the fewest tokens that reach this probability; null among all."""
    min_p: float | None = None
    """Choose among those that have at least this share of the largest probability; null among
    all."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that were there are less likely."""
    no_repeat_ngram: int | None = None
    """So many tokens in a row come once; null does not look."""
    stop: tuple[str, ...] = ()
    """Strings that end a text, which is cut before them."""
    samples: int = 1
    """Texts for each prompt."""
    seed: int = 0
    """Of the random choices; 0 to 2**32 - 1."""

    def __post_init__(self):
        check_seed(self)
        check_at_least(0, self, "min_new_tokens")
        check_at_least(1, self, "samples")
        checks = (
            ("max_new_tokens", self.max_new_tokens, lambda x: x >= 1, "1 or more"),
            ("temperature", self.temperature, lambda x: 0 <= x < math.inf, "0 or more"),
            ("top_k", self.top_k, lambda x: x >= 1, "1 or more"),
            ("top_p", self.top_p, lambda x: 0 < x <= 1, "above 0, at most 1"),
            ("min_p", self.min_p, lambda x: 0 < x <= 1, "above 0, at most 1"),
            ("repetition_penalty", self.repetition_penalty, lambda x: 0 < x < math.inf, "above 0"),
            ("no_repeat_ngram", self.no_repeat_ngram, lambda x: x >= 1, "1 or more"),
        )
        for name, value, is_good, expected in checks:
            if value is not None and not is_good(value):
                what = "a sampling setting is out of range"
                raise UserError(what, where=name, expected=expected, got=value)
        if "" in self.stop:
            raise UserError(
                "an empty string would end every text at once",
                where="stop",
                expected="strings with something in them",
                got=list(self.stop),
            )
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                "the fewest new tokens are more than the most",
                where="min_new_tokens",
                expected=f"at most max_new_tokens={self.max_new_tokens}",
                got=self.min_new_tokens,
            )

    @property
    def reads_history(self) -> bool:
        """Whether a choice depends on tokens that were there."""
        return self.repetition_penalty != 1 or self.no_repeat_ngram is not None

    def fitted(self, longest: int, max_positions: int, trained: int | None = None) -> "Sampling":
        """This with the number of new tokens settled, for prompts of at most `longest` tokens.

        Args:
          trained: the length of rows in training; what the model says behind it is noise, since its
            positions there never moved. None knows no such length.

        Raises:
          UserError: prompt and continuation exceed the model's positions.
        """
        room = max_positions - longest
        new = self.max_new_tokens
        if new is None:
            learnt = room if trained is None else max(1, trained - longest)
            new = max(min(MOST_BY_DEFAULT, room, learnt), self.min_new_tokens)
        if not 1 <= new <= room:
            fewer = f"ask for at most {room} new tokens (--tokens {room}), or " if room > 0 else ""
            raise UserError(
                "the prompt and its continuation are longer than the model's positions",
                where="max_new_tokens (--tokens)",
                expected=f"at most {max_positions} tokens in all",
                got=f"{longest} + {max(new, 1)}",
                fix=f"{fewer}shorten the prompt",
            )
        return dataclasses.replace(self, max_new_tokens=new)


@dataclass(frozen=True, kw_only=True)
class Beams:
    """Beam search: the most likely texts, as far as `count` partial ones a prompt find them."""

    count: int = 4
    """Partial texts that are kept of each prompt."""
    length_penalty: LengthPenalty = "mean"
    """What the log-probability of a text of n tokens is divided by: n (mean), n^alpha (power),
    ((5 + n) / 6)^alpha (gnmt), or nothing (none)."""
    alpha: float = 1.0
    """The power of `power` and `gnmt`; T5 had gnmt with 0.6."""
    early_stopping: Literal["first", "likely", "never"] = "likely"
    """When a prompt is done: with as many ended texts as beams (first); when the best partial text,
    were it to end now, is worse than all of them (likely); or when it is so at any length
    (never, that is, exact)."""

    def __post_init__(self):
        check_at_least(1, self, "count")
        check_at_least(0, self, "alpha")
        if self.length_penalty in ("mean", "none"):
            check_unused(self, ["alpha"], where=f"with length_penalty={self.length_penalty}")
