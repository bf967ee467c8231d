"""What a row source is, and the simplest: windows of the token stream."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.ragged import ragged_arange
from jaxssl.data.store.manifest import MARKS
from jaxssl.data.store.split import Split

Batch = dict[str, np.ndarray]


class RowSource(Protocol):
    """Rows of one split, each a pure function of (seed, epoch, index)."""

    num_rows: int
    sequence_length: int
    pad_id: int
    tokens_left_over: int
    """At the split's end, in no row."""

    def rows(self, indices: np.ndarray, epoch: int) -> Batch:
        """The rows at `indices` ([B] int64 in [0, num_rows)) as they are in `epoch`.

        Returns:
          int32 `tokens`, `segment_ids` (0 is padding, documents count from 1 in each row) and
          `positions` (restart with each document), all [B, T]; uint32 `example_id` [B, 2] (high
          and low word of the index); int32 `epoch` [B]. Sentence pairs add int32 `token_types`
          [B, T] and a label [B]. A split that gives marks adds uint8 `marks` [B, T]: 1 begins a
          marked span, 2 goes on with it (one that the row cuts may begin so), 0 lies in none.
        """
        ...


def identity(indices: np.ndarray, epoch: int) -> Batch:
    """`example_id` [B, 2] uint32 and `epoch` [B] int32 of the rows at `indices`."""
    words = np.stack([indices >> 32, indices & 0xFFFFFFFF], axis=-1)
    return {
        "example_id": words.astype(np.uint32),
        "epoch": np.full(len(indices), epoch, np.int32),
    }


def pad_id(special_ids: Mapping[str, int | None]) -> int:
    """The id of padding; 0 for a tokenizer without one (segment_ids tell padding, not the id)."""
    found = special_ids.get("pad")
    return 0 if found is None else found


def laid_out(
    split: Split,
    shape: tuple[int, int],
    places: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    pad_id: int,
) -> Batch:
    """Pieces of a split in rows: int32 `tokens` [B, T], and uint8 `marks` if the split gives them.

    Args:
      shape: of the rows, [B, T].
      places: where each piece begins, counted through all rows.
      starts: where it begins in the split.
      sizes: of the pieces, in tokens.
      pad_id: what stands where no piece does; in the marks it is 0.
    """
    where, size = ragged_arange(places, sizes), shape[0] * shape[1]
    made: Batch = {"tokens": np.full(size, pad_id, np.int32)}
    if split.gives_marks:
        made[MARKS] = np.zeros(size, np.uint8)
    for kind, values in made.items():
        values[where] = split.ranges(starts, sizes, kind)
    return {kind: values.reshape(shape) for kind, values in made.items()}


def segments(
    shape: tuple[int, int], row: np.ndarray, column: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids and positions of rows [B, T] in which segments start at (row, column).

    Column 0 always starts one, listed or not.
    """
    length = shape[1]
    is_start = np.zeros(shape, bool)
    is_start[row, column] = True
    is_start[:, 0] = True
    starts = np.flatnonzero(is_start)
    first_of_row = np.flatnonzero(starts % length == 0)
    ids = np.arange(len(starts)) - first_of_row[starts // length] + 1
    lengths = np.diff(starts, append=is_start.size)
    positions = np.arange(is_start.size, dtype=np.int32)
    positions -= np.repeat(starts.astype(np.int32), lengths)
    return np.repeat(ids.astype(np.int32), lengths).reshape(shape), positions.reshape(shape)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """Rows are consecutive windows of the token stream, whatever documents they cut."""

    name: Literal["windows"] = "windows"
    """Kind of rows: windows of the stream."""

    def open(
        self,
        split: Split,
        sequence_length: int,
        seed: int = 0,
        special_ids: Mapping[str, int | None] | None = None,
    ) -> "WindowRows":
        """Opens the split's rows of `sequence_length` tokens; the seed is not used."""
        return WindowRows(split, sequence_length, pad_id(special_ids or {}))


class WindowRows:
    """Row i is tokens [i * T, (i + 1) * T) of the split.

    `tokens_left_over` tokens at the split's end, fewer than T, are in no row.
    """

    def __init__(self, split: Split, sequence_length: int, pad_id: int = 0):
        self.split, self.sequence_length, self.pad_id = split, sequence_length, pad_id
        self.num_rows, self.tokens_left_over = divmod(split.num_tokens, sequence_length)
        if not self.num_rows:
            raise UserError(
                "the split is shorter than one row",
                where=split.directory,
                expected=f"at least sequence_length={sequence_length} tokens",
                got=f"{split.num_tokens} tokens",
                fix="prepare more text for this split, or use a shorter sequence_length",
            )

    def rows(self, indices: np.ndarray, epoch: int) -> Batch:
        """See `RowSource.rows`; every epoch has the same rows."""
        indices, length = np.asarray(indices, np.int64), self.sequence_length
        starts = indices * length
        row, end = self.split.ends_within("documents", starts, starts + length)
        ids, positions = segments((len(indices), length), row, end - starts[row])
        kinds = ("tokens", MARKS) if self.split.gives_marks else ("tokens",)
        return {
            **{kind: self.split.windows(starts, length, kind) for kind in kinds},
            "segment_ids": ids,
            "positions": positions,
            **identity(indices, epoch),
        }
