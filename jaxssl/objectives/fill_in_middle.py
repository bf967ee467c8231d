"""Fill in the middle (Bavarian et al., 2022): documents cut in three, the middle one moved to the
end, so that a causal model learns to write what stands between two texts.

A document `P M S` is read as `<prefix> P <suffix> S <middle> M` (PSM), or, half the time,
`<prefix> <suffix> S <middle> P M` (SPM); both cuts are uniform over all places. The token that ends
it stays at its end. The loss is that of all tokens, as in the paper.

Source: bigcode-project/Megatron-LM, megatron/data/gpt_dataset.py. Departures: cuts lie between
tokens (there between characters, and the pieces are tokenized anew); nothing is cut off for the
three tokens that a document becomes longer by: the row has room for them; randomness goes by the
example, not by the order in which a process reads.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Vocabulary
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.causal_lm import CausalLm

MARKS = 3
"""Tokens that a document becomes longer by."""


@dataclass(frozen=True, kw_only=True)
class FillInMiddle(CausalLm):
    """Predict the next token, of documents whose middle often comes last."""

    name: Literal["fill_in_middle"] = "fill_in_middle"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    rate: float = 0.5
    """Share of the documents that are rearranged (StarCoder's)."""
    suffix_first: float = 0.5
    """Share of these that begin with their suffix (SPM)."""
    most: int = 4
    """Documents of a row that may be rearranged; a row is read three tokens shorter for each."""
    prefix_token: str = "<fim_prefix>"
    """Special token before the beginning."""
    suffix_token: str = "<fim_suffix>"
    """Special token before the end."""
    middle_token: str = "<fim_middle>"
    """Special token before the middle."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "most")
        for name in ("rate", "suffix_first"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    "not a share",
                    where=name,
                    expected="a number from 0 to 1",
                    got=getattr(self, name),
                )

    @property
    def marks(self) -> tuple[str, str, str]:
        """The three special tokens."""
        return self.prefix_token, self.suffix_token, self.middle_token

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """The model must be causal, and the tokenizer have the three tokens."""
        super().check(model, vocabulary)
        missing = [mark for mark in self.marks if mark not in vocabulary.special_tokens]
        if missing or len({*self.marks}) < MARKS:
            raise UserError(
                "the tokenizer lacks special tokens that mark the parts of a document"
                if missing
                else "the parts of a document are marked by different tokens",
                where="objective.prefix_token, suffix_token, middle_token",
                expected="three of its special tokens: "
                + (", ".join(vocabulary.special_tokens) or "it has none"),
                got=", ".join(missing or self.marks),
                fix="learn it with them: jaxssl tokenizer extends=TOKENIZER out=... "
                f"'special_tokens=[{','.join(self.marks)}]', and prepare the text anew",
            )

    def raw_length(self, length: int) -> int:
        """Three tokens less for each document that may be rearranged."""
        found = length - MARKS * self.most
        if found < 1:
            raise UserError(
                "rows are too short for the tokens that mark the parts of documents",
                where="data.sequence_length, objective.most",
                expected=f"rows of more than {MARKS * self.most} tokens",
                got=length,
            )
        return found

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """Rows of `raw_length` tokens as rows of the full length, and as for the next token."""
        marks = jnp.array([vocabulary.special_tokens[mark] for mark in self.marks], jnp.int32)
        end, pad = vocabulary.document_end, vocabulary.special_ids.get("pad", 0)

        def row(key, tokens, segments, positions):
            made = self._rearranged(key, tokens, segments, positions, end)
            length = len(tokens) + MARKS * self.most
            places = jnp.concatenate([made.places, made.marks.reshape(-1)])
            of = jnp.concatenate([segments, jnp.repeat(jnp.arange(len(made.marks)), MARKS)])
            values = jnp.concatenate([tokens, jnp.tile(marks, len(made.marks))])
            # What is padding, and the marks of documents that stay, have a place outside the row.
            out = jnp.full(length, pad, jnp.int32).at[places].set(values, mode="drop")
            numbers = jnp.zeros(length, jnp.int32).at[places].set(of, mode="drop")
            begin = jnp.arange(length) - made.begins[numbers]
            return out, numbers, jnp.where(numbers > 0, begin, 0)

        keys, parts = example_keys(seed, batch), ("tokens", "segment_ids", "positions")
        made = jax.vmap(row)(keys, *(batch[part] for part in parts))
        changed = dict(zip(parts, made))
        return {**changed, **super().corrupt({**batch, **changed}, seed, vocabulary)}

    def _rearranged(
        self,
        key: jax.Array,
        tokens: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        end: int,
    ) -> "_Places":
        """Where the tokens of one row come to stand, and the marks of each document.

        Documents are numbered as in `segments` [R], from 1 on; all that is kept of each has R + 1
        entries, 0 being padding's.
        """
        R = len(tokens)
        outside = R + MARKS * self.most
        lengths = jnp.zeros(R + 1, jnp.int32).at[segments].add(1).at[0].set(0)
        begins = jnp.cumsum(lengths) - lengths
        is_end = (positions == lengths[segments] - 1) & (tokens == end)
        ended = jnp.zeros(R + 1, bool).at[segments].max(is_end)
        body = lengths - ended
        which, where, how = jax.random.split(key, 3)
        wanted = (jax.random.uniform(which, (R + 1,)) < self.rate) & (body > 0)
        chosen = wanted & (jnp.cumsum(wanted) <= self.most)
        share = jax.random.uniform(where, (2, R + 1))
        cuts = jnp.minimum(jnp.floor(share * (body + 1)).astype(jnp.int32), body)
        first, second = jnp.min(cuts, axis=0), jnp.max(cuts, axis=0)
        suffix_first = jax.random.uniform(how, (R + 1,)) < self.suffix_first
        begins = begins + MARKS * (jnp.cumsum(chosen) - chosen)
        after = body - second  # tokens of the suffix
        none, one = jnp.zeros_like(after), jnp.ones_like(after)
        # Of each document, by how much a token of its prefix, middle, suffix and end moves.
        moves = jnp.where(
            suffix_first,
            jnp.stack([3 + after, 3 + after, 2 - second, 3 * one]),
            jnp.stack([one, 3 + after, 2 - (second - first), 3 * one]),
        )
        i, s = positions, segments
        in_prefix, in_middle, in_suffix = i < first[s], i < second[s], i < body[s]
        part = jnp.select([in_prefix, in_middle, in_suffix], [0, 1, 2], 3)
        places = begins[s] + i + jnp.where(chosen[s], moves[part, s], 0)
        marks = jnp.where(
            suffix_first,
            jnp.stack([none, one, 2 + after]),
            jnp.stack([none, 1 + first, 2 + first + after]),
        )
        marks = jnp.where(chosen, begins + marks, outside).T
        return _Places(jnp.where(s > 0, places, outside), marks, begins)


class _Places(NamedTuple):
    """Of one row: where each token goes [R], and of each document its marks [R + 1, 3] and its
    beginning [R + 1]; a place outside the row is none."""

    places: jax.Array
    marks: jax.Array
    begins: jax.Array
