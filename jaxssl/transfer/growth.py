"""Rows for new pieces and new positions, made of those of a model that had fewer."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxssl.core.upcast import upcast


@dataclass(frozen=True)
class NewPieces:
    """Pieces that a tokenizer has besides those of what is started from.

    Attributes:
      first: the id of the first of them.
      before: for each the ids that its text was cut into before; none for an id that is not used.
    """

    first: int = 0
    before: tuple[tuple[int, ...], ...] = ()

    @property
    def ids(self) -> range:
        return range(self.first, self.first + len(self.before))


NO_PIECES = NewPieces()


def with_new_pieces(
    stored: jax.Array, fresh: jax.Array, pieces: NewPieces, axis: int = 0
) -> jax.Array:
    """A parameter over the vocabulary: the stored rows, and for new pieces the means of those of
    the pieces before, in float32 at least; what is larger than both begins fresh.

    Args:
      stored: [old rows, ...], or with them along another axis.
      fresh: of the shape that is wanted.
    """
    old, new = (jnp.moveaxis(x, axis, 0) for x in (stored, fresh))
    kept = min(len(old), len(new))
    table = jnp.concatenate([old[:kept], new[kept:]])
    made = [number for number, before in enumerate(pieces.before) if before]
    if made:
        counts = np.array([len(pieces.before[number]) for number in made])
        ids = np.concatenate([pieces.before[number] for number in made])
        owners = np.repeat(np.arange(len(made)), counts)
        sums = jax.ops.segment_sum(upcast(old)[ids], owners, len(made))
        means = sums / counts.reshape(-1, *[1] * (old.ndim - 1))
        places = pieces.first + np.array(made)
        table = table.at[places].set(means.astype(table.dtype))
    return jnp.moveaxis(table, 0, axis)


def with_new_positions(
    stored: jax.Array, fresh: jax.Array, offset: int, way: Literal["tile", "stretch"]
) -> jax.Array:
    """A longer table of learned positions.

    Args:
      stored: [offset + old positions, H].
      fresh: of the shape that is wanted.
      offset: rows before that of the first position, which stay as they are.
      way: `tile` repeats the rows: that of position p is the stored one of p modulo the old number.
        `stretch` draws them apart: the first and the last stay so, and position p of n lies at
        p (old - 1) / (n - 1), between two old ones.
    """
    before, old, count = stored[:offset], stored[offset:], len(fresh) - offset
    if way == "tile":
        made = old[np.arange(count) % len(old)]
    else:
        places = np.arange(count) * (len(old) - 1) / max(1, count - 1)
        low = np.minimum(places.astype(int), len(old) - 1)
        high = np.minimum(low + 1, len(old) - 1)
        share = jnp.asarray((places - low)[:, None], upcast(old).dtype)
        made = (upcast(old)[low] * (1 - share) + upcast(old)[high] * share).astype(old.dtype)
    return jnp.concatenate([before, made])
