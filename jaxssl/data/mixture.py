"""Which streams a batch number takes, and which batch of each: pure functions of the number.

By turns, shares are integers over 2**20, read once for a block of 64 batch numbers. A block's quota
is what each stream is owed so far, never less than nothing, the rest by largest remainders; its
draws are in the order of a keyed permutation. So counts never go down, the draws up to a number do
not depend on how long the run is, and each stream's batches are its own numbers 0, 1, 2, ...
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from jaxssl.core.bounds import check_above_zero, check_at_least, check_seed
from jaxssl.core.errors import UserError
from jaxssl.core.ramp import Factor, Ramp
from jaxssl.data.order import permute

ONE = 1 << 20
BLOCK = 64


class Draws(Protocol):
    """The streams of a run by batch number."""

    def at(self, number: int) -> dict[str, int]:
        """{stream: the number of its own batch} for each stream that batch `number` takes."""
        ...

    def before(self, number: int) -> dict[str, int]:
        """{stream: how many of its batches come before batch `number`}."""
        ...

    def shares(self, number: int) -> dict[str, float]:
        """{stream: its share of the batches around batch `number`}; none where all are taken."""
        ...

    def is_over(self, stream: str, number: int) -> bool:
        """Whether a stream has no batch from batch `number` on."""
        ...

    def history(self, number: int) -> int:
        """A checksum of all draws before batch `number`."""
        ...


def steps_until(draws: Draws, stream: str, batches: int) -> int:
    """How many batch numbers it takes until a stream had `batches` of its own."""
    high = max(1, batches)
    while draws.before(high)[stream] < batches:
        if draws.is_over(stream, high):
            raise UserError(
                "a stream never gets so many batches",
                where=f"streams.{stream}.weight",
                expected=f"{batches:,} batches, for the epochs that are asked for",
                got="a share that ends at 0",
                fix="give train.steps instead of epochs, or the stream a larger share",
            )
        high *= 2
    low = 0
    while low < high:
        middle = (low + high) // 2
        if draws.before(middle)[stream] < batches:
            low = middle + 1
        else:
            high = middle
    return low


def check_seen(draws: Draws, number: int, meta: Mapping[str, Any], where: str) -> None:
    """Refuses to go on with other batches than those that follow what a checkpoint has seen.

    Args:
      number: the next batch.
      meta: noted with the checkpoint: `draws` and `draws_history`, what `before` and `history` of
        its own mixture were.
      where: the checkpoint, for the message.
    """
    seen, own = meta.get("draws"), draws.before(number)
    if seen is None:  # of version 0.1
        return
    history = draws.history(number)
    if seen != own or meta.get("draws_history", history) != history:
        raise UserError(
            "the checkpoint has seen other batches than this mixture draws",
            where=f"{where}, streams, mixture",
            expected=f"{seen} batches by stream",
            got=own,
            fix="start a run of its own from this one (init), or take the old weights back",
        )


# --- Configuration ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Jointly:
    """Every step takes a batch of each stream; their losses are added by weight."""

    name: Literal["jointly"] = "jointly"
    """All at once."""

    takes_all: ClassVar[bool] = True

    def draws(self, streams: Mapping[str, Factor], rows: Mapping[str, tuple[int, int]]) -> "Draws":
        """All streams in every step.

        Args:
          streams: the weight of each stream, by its name.
          rows: how many rows each has, and how many its batches.
        """
        return AllAtOnce(tuple(streams))

    def loss_weight(self, weight: Factor) -> Factor:
        """What a stream's loss is multiplied with."""
        return weight


@dataclass(frozen=True, kw_only=True)
class ByTurns:
    """Every step takes a batch of one stream; weights are shares of the steps."""

    name: Literal["by_turns"] = "by_turns"
    """One after the other."""
    shares: Literal["given", "examples"] = "given"
    """`given` takes the streams' weights; `examples` min(rows, limit)^(1 / temperature), over
    the rows of a batch (Raffel et al., 2020), times the weights. Rows are those of training."""
    limit: int | None = None
    """For `examples`: a stream counts as having at most so many rows; null is no limit."""
    temperature: float = 1.0
    """For `examples`: above 1, small streams get more than their share."""
    seed: int = 0
    """Of the order of the turns; 0 to 2**32 - 1."""

    takes_all: ClassVar[bool] = False

    def __post_init__(self):
        check_at_least(1, self, "limit")
        check_above_zero(self, "temperature")
        check_seed(self)
        if self.shares == "given" and (self.limit is not None or self.temperature != 1.0):
            raise UserError(
                "shares that are given have neither limit nor temperature",
                where="limit, temperature",
                expected="null and 1.0, or shares=examples",
                got=(self.limit, self.temperature),
            )

    def draws(self, streams: Mapping[str, Factor], rows: Mapping[str, tuple[int, int]]) -> "Draws":
        """One stream in each step.

        Args:
          streams: the weight of each stream, by its name.
          rows: how many rows each has, and how many its batches.
        """
        most = max((self._counted(rows[name][0]) for name in streams), default=1)
        sizes = {name: self._size(*rows[name], most) for name in streams}
        return OneAtATime(
            {name: (weight, sizes[name]) for name, weight in streams.items()}, self.seed
        )

    def _counted(self, rows: int) -> int:
        return rows if self.limit is None else min(rows, self.limit)

    def _size(self, rows: int, batch_size: int, most: int) -> Fraction:
        if self.shares == "given":
            return Fraction(1)
        share = Fraction(self._counted(rows), most)
        if self.temperature != 1.0:  # a power of the share: that of a count may overflow
            powered = float(share) ** (1 / self.temperature)
            share = Fraction(powered).limit_denominator(10**12)
        return share / batch_size

    def loss_weight(self, weight: Factor) -> Factor:
        """What a stream's loss is multiplied with: nothing, it has its turns."""
        return 1.0


# --- Draws --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AllAtOnce:
    """Every batch number takes the same batch number of each stream."""

    streams: tuple[str, ...]

    def at(self, number: int) -> dict[str, int]:
        return dict.fromkeys(self.streams, number)

    def before(self, number: int) -> dict[str, int]:
        return dict.fromkeys(self.streams, number)

    def shares(self, number: int) -> dict[str, float]:
        return {}

    def is_over(self, stream: str, number: int) -> bool:
        return False

    def history(self, number: int) -> int:
        return 0


def quantised(shares: Sequence[Fraction]) -> list[int]:
    """Integers in the proportion of `shares` that sum to ONE, by largest remainders."""
    whole = sum(shares)
    exact = [share / whole * ONE for share in shares]
    counts = [int(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for i in by_remainder[: ONE - sum(counts)]:
        counts[i] += 1
    return counts


@dataclass(eq=False)
class OneAtATime:
    """Every batch number takes a batch of one stream.

    Args:
      weights: {stream: (its weight, what that is multiplied with)}.
      seed: of the order inside a block.
    """

    weights: Mapping[str, tuple[Factor, Fraction]]
    seed: int
    _starts: list[list[int]] = field(default_factory=list)
    _owed: list[int] = field(default_factory=list)

    def __post_init__(self):
        self._names = list(self.weights)
        self._starts, self._owed = [[0] * len(self._names)], [0] * len(self._names)

    def at(self, number: int) -> dict[str, int]:
        block, place = divmod(number, BLOCK)
        order = self._order(block)
        stream = int(order[place])
        index = self._starts[block][stream] + int((order[:place] == stream).sum())
        return {self._names[stream]: index}

    def before(self, number: int) -> dict[str, int]:
        block, place = divmod(number, BLOCK)
        order = self._order(block)[:place]
        counts = self._starts[block]
        return {name: counts[i] + int((order == i).sum()) for i, name in enumerate(self._names)}

    def history(self, number: int) -> int:
        before = self.before(number)
        edges = self._starts[: number // BLOCK + 1]
        return zlib.crc32(repr((edges, before, self.seed)).encode())

    def shares(self, number: int) -> dict[str, float]:
        block = self._shares(number // BLOCK * BLOCK)
        return {name: share / ONE for name, share in zip(self._names, block)}

    def is_over(self, stream: str, number: int) -> bool:
        ramps = [weight for weight, _ in self.weights.values() if isinstance(weight, Ramp)]
        still_moves = any(number < ramp.points[-1][0] for ramp in ramps)
        return not still_moves and not self._shares(number)[self._names.index(stream)]

    def _order(self, block: int) -> np.ndarray:
        """The stream of each place in a block."""
        self._grow(block)
        quota = np.subtract(self._starts[block + 1], self._starts[block])
        sorted_streams = np.repeat(np.arange(len(self._names)), quota)
        return sorted_streams[permute(np.arange(BLOCK), BLOCK, self.seed, block)]

    def _grow(self, block: int) -> None:
        while len(self._starts) < block + 2:
            number, counts = len(self._starts) - 1, self._starts[-1]
            shares = self._shares(number * BLOCK)
            self._owed = [owed + BLOCK * share for owed, share in zip(self._owed, shares)]
            behind = [owed - count * ONE for owed, count in zip(self._owed, counts)]
            quota = _quota(behind, shares)
            self._starts.append([count + n for count, n in zip(counts, quota)])

    def _shares(self, number: int) -> list[int]:
        """The streams' shares of the block that begins at a batch number."""
        values = []
        for weight, size in self.weights.values():
            given = weight.at(number) if isinstance(weight, Ramp) else Fraction(weight)
            values.append(given * size)
        if not sum(values):
            raise UserError(
                "no stream has a turn",
                where=f"streams, step {number}",
                expected="a weight above 0",
                got="0 for all of them",
            )
        return quantised(values)


def _quota(behind: Sequence[int], shares: Sequence[int]) -> list[int]:
    """How many of a block's draws each stream gets: what it is owed, BLOCK in all. A stream whose
    share is 0 gets none."""
    may = [i for i, share in enumerate(shares) if share]
    quota = [max(0, owed // ONE) if shares[i] else 0 for i, owed in enumerate(behind)]

    def left(i: int) -> int:
        return behind[i] - quota[i] * ONE

    while sum(quota) < BLOCK:
        quota[max(may, key=lambda i: (left(i), -i))] += 1
    while sum(quota) > BLOCK:
        quota[min((i for i in may if quota[i]), key=lambda i: (left(i), i))] -= 1
    return quota
