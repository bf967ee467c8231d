"""Two passages cut out of one text are told from those of all other texts of the batch, as in
Contriever (Izacard et al., 2022, independent cropping) and DeCLUTR (Giorgi et al., 2021).

Source: facebookresearch/contriever, src/data.py. Departures: negatives are the batch's, of all
devices (there a queue of a momentum encoder); no words are deleted; passages have bounds in tokens
(there 5% to 50% of 256). Two rows of one document are different texts. Of a row of several
documents one is read in each epoch; it is drawn by its length, so that each token is as likely to
be near as another.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import example_keys
from jaxssl.core.types import Batch, Vocabulary
from jaxssl.objectives.contrast.objective import Contrasting, check_text_alone
from jaxssl.ops.texts import key_of_tokens

SPECIAL = 2
"""Of a passage, where the tokenizer has both: before it and behind it."""
_PARTS = ("tokens", "segment_ids", "positions")


@dataclass(frozen=True, kw_only=True)
class Passages(Contrasting):
    """Tell two passages of a text from those of the others."""

    name: Literal["passages"] = "passages"  # pyright: ignore[reportIncompatibleVariableOverride]
    """The objective."""
    shortest: int = 8
    """Fewest tokens of a passage, but for texts that are shorter."""
    reach: int = 4
    """Passages are cut out of so many times the tokens of a row (`data.sequence_length`, which is
    the longest passage): the farther apart two may lie, the more they have nothing but the subject
    in common."""

    def __post_init__(self):
        super().__post_init__()
        check_text_alone(self.loss)
        check_at_least(1, self, "shortest", "reach")

    def raw_length(self, length: int) -> int:
        """What passages of `length` tokens are cut out of."""
        return self.reach * length

    def check_rows(self, rows: Batch) -> None:
        """There must be room for a passage of `shortest` tokens."""
        longest = rows["tokens"].shape[1] // self.reach
        if longest < self.shortest + SPECIAL:
            raise UserError(
                "rows are too short for a passage",
                where="data.sequence_length",
                expected=f"at least {self.shortest + SPECIAL} tokens: objective.shortest and "
                f"{SPECIAL} special ones",
                got=longest,
            )

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """`passage_tokens`, `passage_segment_ids`, `passage_positions` int32 [B, 2, T], cut out of
        one document of each row [B, reach x T]: of those that are long enough for two passages one
        is drawn by its length; where none is, the longest."""
        special = vocabulary.special_ids
        frame = _Frame(special.get("cls"), special.get("sep"), special.get("pad", 0))
        reserved = jnp.array(vocabulary.reserved)
        longest = batch["tokens"].shape[1] // self.reach

        def row(key, tokens, segments):
            which, *keys = jax.random.split(key, 3)
            kept = ~jnp.isin(tokens, reserved)
            begin, size = _document(which, segments, kept, 2 * self.shortest)
            sizes = (begin, size, self.shortest, longest)
            return jax.vmap(lambda key: _passage(key, tokens, *sizes, frame))(jnp.stack(keys))

        made = jax.vmap(row)(example_keys(seed, batch), batch["tokens"], batch["segment_ids"])
        return {f"passage_{part}": each for part, each in zip(_PARTS, made)}

    def texts_of(self, batch: Batch) -> list[Batch]:
        """The two passages."""
        return [{part: batch[f"passage_{part}"][:, k] for part in _PARTS} for k in range(2)]

    def keys_of(self, batch: Batch) -> jax.Array:
        """Of their tokens."""
        return jnp.stack([key_of_tokens(text) for text in self.texts_of(batch)], axis=1)


class _Frame(NamedTuple):
    """What stands before and behind a passage, if the tokenizer has both; and behind that."""

    cls: int | None
    sep: int | None
    pad: int


def _document(
    key: jax.Array, segments: jax.Array, kept: jax.Array, enough: int
) -> tuple[jax.Array, jax.Array]:
    """Where a document of a row [R] begins, and its tokens, without special ones at its ends.

    It is that of a token drawn among those of all documents with `enough` tokens; without any, the
    longest.
    """
    R = len(segments)
    sizes = jnp.zeros(R + 1, jnp.int32).at[segments].add(kept).at[0].set(0)
    able = jnp.cumsum(kept & (sizes[segments] >= enough))
    drawn = segments[jnp.argmax(able > jax.random.randint(key, (), 0, jnp.maximum(able[-1], 1)))]
    inside = kept & (segments == jnp.where(able[-1] > 0, drawn, jnp.argmax(sizes))) & (segments > 0)
    begin = jnp.argmax(inside)
    end = R - jnp.argmax(inside[::-1])
    return begin, jnp.where(inside.any(), end - begin, 0)


def _passage(
    key: jax.Array,
    tokens: jax.Array,
    begin: jax.Array,
    size: jax.Array,
    shortest: int,
    longest: int,
    frame: _Frame,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, segment ids and positions [T] of one passage of what begins at `begin`."""
    framed = frame.cls is not None and frame.sep is not None
    room = longest - SPECIAL * framed
    which, where = jax.random.split(key)
    most = jnp.minimum(size, room)
    least = jnp.minimum(most, shortest)
    count = jax.random.randint(which, (), least, most + 1)
    start = begin + jax.random.randint(where, (), 0, size - count + 1)
    place = jnp.arange(longest)
    inner = place - framed
    cut = tokens[jnp.clip(start + inner, 0, len(tokens) - 1)]
    out = jnp.where((inner >= 0) & (inner < count), cut, frame.pad)
    if frame.cls is not None and frame.sep is not None:
        out = jnp.where(place == 0, frame.cls, jnp.where(inner == count, frame.sep, out))
    real = (place < count + SPECIAL * framed) & (count > 0)
    out = jnp.where(real, out, frame.pad).astype(jnp.int32)
    return out, real.astype(jnp.int32), jnp.where(real, place, 0).astype(jnp.int32)
