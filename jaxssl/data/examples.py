"""Labelled examples as batches of rows of similar length.

An example is one row: its tokens, padded to one of a few lengths, so that each length is compiled
once and little is computed over padding. An epoch takes every example exactly once: rows are
permuted, sorted by length within pools of some batches, and the batches of a pool are permuted.
What is missing in an epoch's last batch is padding. As with a token store, batch s of a run is a
function of (seed, s), on any number of hosts.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxssl.data.order import permute
from jaxssl.data.ragged import row_splits
from jaxssl.data.store.rows import Batch, identity

POOL = 64
"""Batches that are sorted by length together: more give less padding and a less random order."""
MULTIPLE = 8
"""Row lengths are multiples of this, which accelerators like."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Encoded examples, all in memory.

    Attributes:
      tokens: int32 [total], the rows one after the other, special tokens included.
      starts: int64 [N + 1], where each row starts.
      second: int32 [N], where the second text of a row starts in it; the row's length without one.
      pad_id: of padding.
      per_row: {name: array [N, ...]} that travel with a row: `labels` and so on.
      per_token: {name: (array [total, ...], value of padding)} that travel with the tokens.
      sides: {name: the same rows' other texts}. A batch has them under their names: `targets`
        [B, U], `targets_segment_ids` and `targets_positions`, with a length of their own.
    """

    tokens: np.ndarray
    starts: np.ndarray
    second: np.ndarray
    pad_id: int
    per_row: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    per_token: Mapping[str, tuple[np.ndarray, float]] = dataclasses.field(default_factory=dict)
    sides: Mapping[str, "Examples"] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for side in self.sides.values():
            assert side.num_rows == self.num_rows
            assert not (side.per_row or side.sides), "these are the first side's"

    def packed(self, held: Sequence[Sequence[int]]) -> "Examples":
        """Rows that hold several of these each, told apart by their segments on every side.

        Args:
          held: the rows that each holds, in order.
        """
        assert not (self.per_row or self.per_token), "of one row each"
        order = np.array([number for row in held for number in row])
        sizes = self.lengths[order]
        numbers = np.concatenate([np.arange(1, len(row) + 1) for row in held])
        totals = np.array([self.lengths[np.asarray(row)].sum() for row in held], np.int64)
        starts = np.concatenate([[0], np.cumsum(sizes)])
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
        segments = np.repeat(numbers, sizes).astype(np.int32)
        return Examples(
            tokens=self.tokens[np.repeat(self.starts[order], sizes) + inside],
            starts=row_splits(totals),
            second=totals.astype(np.int32),
            pad_id=self.pad_id,
            per_token={"segment_ids": (segments, 0), "positions": (inside.astype(np.int32), 0)},
            sides={name: side.packed(held) for name, side in self.sides.items()},
        )

    @property
    def num_rows(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """int64 [N], in tokens."""
        return np.diff(self.starts)

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int64 [N, S], the lengths of each side, these first."""
        return np.stack([self.lengths, *(side.lengths for side in self.sides.values())], axis=1)

    def rows(self, indices: np.ndarray, length: int, epoch: int, *others: int) -> Batch:
        """The rows at `indices` padded to `length`; an index of -1 is a row of padding.

        Args:
          others: the lengths of the other sides, in order.
        """
        chosen, real = indices, indices >= 0
        indices = np.where(real, chosen, 0)
        lengths = np.where(real, self.lengths[indices], 0)
        assert lengths.max(initial=0) <= length
        column = np.arange(length)
        inside = column < lengths[:, None]
        at = np.where(inside, self.starts[indices][:, None] + column, 0)
        positions = np.where(inside, column, 0)
        second = inside & (column >= self.second[indices][:, None])
        batch = {
            "tokens": np.where(inside, self.tokens[at], self.pad_id).astype(np.int32),
            "segment_ids": inside.astype(np.int32),
            "positions": positions.astype(np.int32),
            "token_types": second.astype(np.int32),
            "example_weights": real.astype(np.float32),
            **identity(np.where(real, indices, 0), epoch),
        }
        for name, values in self.per_row.items():
            batch[name] = values[indices]
        for name, (values, padding) in self.per_token.items():
            shape = inside.shape + (1,) * (values.ndim - 1)
            batch[name] = np.where(inside.reshape(shape), values[at], padding).astype(values.dtype)
        for (name, side), size in zip(self.sides.items(), others, strict=True):
            other = side.rows(chosen, size, epoch)
            batch[name] = other["tokens"]
            batch |= {f"{name}_{part}": other[part] for part in ("segment_ids", "positions")}
        return batch


def row_lengths(lengths: np.ndarray, count: int, multiple: int = MULTIPLE) -> np.ndarray:
    """The `count` (or fewer) lengths to pad to that waste least; the last one fits the longest.

    Exact, by dynamic programming over the multiples of `multiple`.
    """
    rounded = -(-np.asarray(lengths) // multiple) * multiple
    edges, weights = np.unique(rounded, return_counts=True)
    if len(edges) <= count:
        return edges
    total = np.concatenate([[0], np.cumsum(weights)])
    # cost[j] of ending a bucket at edge j: every row in it is padded to that edge.
    best = edges * total[1:].astype(np.float64)
    choice = [np.full(len(edges), -1)]
    for _ in range(count - 1):
        with_previous = best[:, None] + edges[None, :] * (total[1:][None, :] - total[1:][:, None])
        with_previous[np.tril_indices(len(edges))] = np.inf
        choice.append(np.argmin(with_previous, axis=0))
        best = np.minimum(best, with_previous.min(axis=0))
        choice[-1] = np.where(with_previous.min(axis=0) <= best, choice[-1], -1)
    chosen, at = [], len(edges) - 1
    for level in reversed(choice):
        chosen.append(edges[at])
        at = int(level[at])
        if at < 0:
            break
    return np.array(chosen[::-1])


CANDIDATES = 24
"""Lengths of each side that boxes are chosen from: 24 x 24 give 331,000 pairs of boxes."""


def boxes(sizes: np.ndarray, count: int, multiple: int = MULTIPLE) -> np.ndarray:
    """What rows of several sides are padded to: `count` (or fewer) boxes [count, S], each within
    the next, that waste least; the last one fits all rows. Of one side these are `row_lengths`.

    By dynamic programming over all pairs of up to `CANDIDATES` lengths of each side.

    Args:
      sizes: int [N, S].
    """
    sides = range(sizes.shape[1])
    if len(sides) == 1:
        return row_lengths(sizes[:, 0], count, multiple)[:, None]
    lengths = [row_lengths(sizes[:, side], CANDIDATES, multiple) for side in sides]
    held, edges = _held(sizes, lengths), _grid(lengths)
    tokens = edges.sum(1)
    is_within = (edges[:, None] <= edges[None]).all(-1) & (held[:, None] < held[None])
    best, choice = held * tokens.astype(np.float64), []
    for _ in range(count - 1):
        after = best[:, None] + (held[None] - held[:, None]) * tokens[None]
        after = np.where(is_within, after, np.inf)
        choice.append(np.where(after.min(0) < best, after.argmin(0), -1))
        best = np.minimum(best, after.min(0))
    chosen = [len(edges) - 1]
    for level in reversed(choice):
        if level[chosen[-1]] >= 0:
            chosen.append(int(level[chosen[-1]]))
    return edges[chosen[::-1]]


def _grid(axes: Sequence[np.ndarray]) -> np.ndarray:
    """All combinations, [C, S]."""
    return np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=1)


def _held(sizes: np.ndarray, lengths: Sequence[np.ndarray]) -> np.ndarray:
    """How many rows fit in each combination of lengths, [C]."""
    least = [np.searchsorted(edges, sizes[:, side]) for side, edges in enumerate(lengths)]
    counts = np.zeros([len(edges) for edges in lengths], np.int64)
    np.add.at(counts, tuple(least), 1)
    for side in range(len(lengths)):
        counts = counts.cumsum(side)
    return counts.ravel()


def box_of(sizes: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The number of the first box that fits, of each row of sizes [..., S]."""
    return (sizes[..., None, :] > edges).any(-1).sum(-1)


def fixed_lengths(longest: int, multiple: int = MULTIPLE) -> np.ndarray:
    """Lengths to pad to where the rows are not known: 8, 16, 24, 32, 48, 64, 96, ... `longest`.

    Powers of two and those between, in multiples of `multiple`: a row of more than 16 tokens is
    padded to less than 1.5 times its length, and 512 tokens make 12 lengths.
    """
    powers = multiple * 2 ** np.arange(max(1, longest).bit_length())
    lengths = np.concatenate([powers, 3 * powers])
    return np.unique(np.append(lengths[lengths < longest], -(-longest // multiple) * multiple))


class ExampleBatches:
    """Batch s of a run, at index s.

    Attributes:
      per_epoch: batches of an epoch; the last one may hold padding.
      left_over: rows of an epoch that are in no batch: none.
    """

    left_over = 0

    def __init__(
        self,
        examples: Examples,
        edges: np.ndarray,
        batch_size: int,
        seed: int,
        places: np.ndarray,
        ranks: np.ndarray,
    ):
        self._examples, self._edges, self._ranks = examples, edges, ranks
        self._batch_size, self._seed, self._places = batch_size, seed, places
        self.per_epoch = -(-examples.num_rows // batch_size)
        self._epoch, self._plan = -1, np.zeros((0, 0), np.int64)

    def __len__(self) -> int:
        return 1 << 62

    def __getitem__(self, index: int) -> Batch:
        epoch, number = divmod(int(index), self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self.plan(epoch)
        chosen = self._plan[number]
        length, *others = _fitting(self._examples, self._edges, chosen)
        return self._examples.rows(chosen[self._places], length, epoch, *others)

    def plan(self, epoch: int) -> np.ndarray:
        """The rows of each batch of an epoch: [per_epoch, batch_size], -1 for padding."""
        size, count = self._batch_size, self._examples.num_rows
        order = permute(np.arange(count), count, self._seed, epoch)
        batches = []
        for start in range(0, count, POOL * size):
            pool = order[start : start + POOL * size]
            pool = pool[np.argsort(self._ranks[pool], kind="stable")]
            short = -len(pool) % size
            pool = np.concatenate([pool, np.full(short, -1)]).reshape(-1, size)
            shuffled = permute(np.arange(len(pool)), len(pool), self._seed + 1, epoch)
            batches.append(pool[shuffled])
        return np.concatenate(batches)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleData:
    """Examples as something that a run trains or validates on."""

    examples: Examples
    edges: np.ndarray
    """What rows are padded to, ascending: int [K, S], a column for each side."""
    answers: Any = None
    """What predictions are scored against, in the order of the examples."""
    plan_lengths: np.ndarray | None = None
    """Lengths that batches are planned by, where they are not those of the rows."""

    def references(self, chosen: np.ndarray) -> Any:
        """The answers of the examples at `chosen`; of several tasks, by their names."""
        return _at(self.answers, chosen)

    @property
    def num_rows(self) -> int:
        return self.examples.num_rows

    @functools.cached_property
    def _ranks(self) -> np.ndarray:
        """int [N], rows in the order of what they are padded to, then of their first side."""
        if self.plan_lengths is not None:
            return self.plan_lengths
        found = box_of(self.examples.sizes, self.edges) if self.examples.sides else 0
        return found * (self.examples.lengths.max(initial=0) + 1) + self.examples.lengths

    def train_batches(self, batch_size: int, seed: int, places: np.ndarray) -> ExampleBatches:
        """See `ExampleBatches`."""
        return ExampleBatches(self.examples, self.edges, batch_size, seed, places, self._ranks)

    def eval_batches(
        self, batch_size: int, places: np.ndarray, limit: int | None = None, fill: bool = False
    ) -> Iterator[Batch]:
        """Every example exactly once, the longest first; the last batch is filled with padding, or,
        with `fill`, with examples of the batch before whose `example_weights` are 0."""
        count = self.num_rows
        planned = self._ranks if self.examples.sides else self.examples.lengths
        order = np.argsort(-planned, kind="stable")
        if limit is not None and limit * batch_size < count:
            chosen = np.arange(limit * batch_size) * count // (limit * batch_size)
            order = order[chosen]
        for start in range(0, len(order), batch_size):
            own = order[start : start + batch_size]
            left, again = batch_size - len(own), fill and start > 0
            more = order[start - left : start] if again else np.full(left, -1)
            chosen = np.concatenate([own, more])
            fitted = more if again and left else own
            length, *others = _fitting(self.examples, self.edges, fitted)
            rows = self.examples.rows(chosen[places], length, 0, *others)
            if again:
                rows["example_weights"] *= places < len(own)
            yield rows


def _fitting(examples: Examples, edges: np.ndarray, chosen: np.ndarray) -> list[int]:
    """The lengths, one for each side, that the rows at `chosen` are padded to."""
    most = examples.sizes[chosen[chosen >= 0]].max(0, initial=1)
    return edges[box_of(most, edges)].tolist()


def _at(answers: Any, chosen: np.ndarray) -> Any:
    if isinstance(answers, Mapping):
        return {name: _at(part, chosen) for name, part in answers.items()}
    return answers[chosen] if isinstance(answers, np.ndarray) else [answers[i] for i in chosen]
