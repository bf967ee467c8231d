"""Rows that pack whole documents: a plan made from their lengths, and the rows it describes.

The plan of a split for rows of T tokens lies beside the shards: `pack-<T>.starts` (int64, where
each piece starts in the split), `pack-<T>.lengths` (int32), `pack-<T>.rows` (int64, exclusive
ends of rows in pieces) and `pack-<T>.json` (counts, and what the plan was made from), which is
written last. Shards are packed one by one, so that memory is bounded by a shard's documents.
"""

import bisect
import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write, sample_sha256, sha256
from jaxssl.core.json_files import STRICT, read_json
from jaxssl.core.progress import bar
from jaxssl.data.ragged import ragged_arange
from jaxssl.data.store.rows import Batch, identity, laid_out, pad_id, segments
from jaxssl.data.store.split import Split

PLAN_FORMAT = 1
_ARRAYS = {"starts": np.dtype("<i8"), "lengths": np.dtype("<i4"), "rows": np.dtype("<i8")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanRecord:
    """A plan's `.json`: counts, the shards it was made from, and the checksums of its arrays, which
    plans of version 0.1 lack."""

    __pydantic_config__: ClassVar = STRICT
    format: int = PLAN_FORMAT
    sequence_length: int
    rows: int
    pieces: int
    documents: Mapping[str, str]
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sample: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed:
    """Rows hold whole documents (those longer than a row are split), padded where none fits."""

    name: Literal["packed"] = "packed"
    """Kind of rows: packed documents."""

    def open(
        self,
        split: Split,
        sequence_length: int,
        seed: int = 0,
        special_ids: Mapping[str, int | None] | None = None,
    ) -> "PackedRows":
        """Opens the split's pack plan for `sequence_length`, made now if `prepare` did not.

        The seed is not used.
        """
        self.make_plan(split, sequence_length)
        return PackedRows(split, sequence_length, pad_id(special_ids or {}))

    def make_plan(self, split: Split, sequence_length: int) -> None:
        """Makes the split's pack plan, if there is none; of several processes, one goes first."""
        if not plan_path(split, sequence_length).exists():
            write_pack_plan(split, sequence_length)


def plan_path(split: Split, length: int, kind: str = "json") -> Path:
    """One file of the split's pack plan for rows of `length` tokens."""
    return split.directory / f"pack-{length}.{kind}"


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Best-fit decreasing: each length, longest first, goes to the fullest bin that has room.

    Bins with the same room are handled as one group, so the time is that of sorting.

    Args:
      lengths: [N], each in [1, capacity].
      capacity: of a bin.

    Returns:
      The bin of each length, [N] int64, counted from 0 without gaps.
    """
    bins = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    cuts = np.flatnonzero(np.diff(lengths[order])) + 1
    rooms: list[int] = []  # sorted; what the open bins have left
    open_bins: dict[int, list[np.ndarray]] = {}
    count = 0

    def put(room: int, ids: np.ndarray) -> None:
        if room and ids.size:
            if room not in open_bins:
                bisect.insort(rooms, room)
            open_bins.setdefault(room, []).append(ids)

    for pieces in np.split(order, cuts) if len(lengths) else ():
        length = int(lengths[pieces[0]])
        while pieces.size:
            place = bisect.bisect_left(rooms, length)
            if place < len(rooms):
                room = rooms.pop(place)
                ids = np.concatenate(open_bins.pop(room))
            else:
                room = capacity
                ids = np.arange(count, count - (-pieces.size // (capacity // length)))
                count += ids.size
            each = room // length
            taken = min(pieces.size, ids.size * each)
            full, rest = divmod(taken, each)
            bins[pieces[:taken]] = np.repeat(ids[: full + (rest > 0)], each)[:taken]
            put(room - each * length, ids[:full])
            put(room - rest * length, ids[full : full + 1])
            put(room, ids[full + 1 :])
            pieces = pieces[taken:]
    return bins


def write_pack_plan(split: Split, length: int) -> Path:
    """Makes and writes the pack plan of a split for rows of `length` tokens.

    Every token of the split is in exactly one row, its document-end tokens too. A document longer
    than `length` is split every `length` tokens. Rows are in the order of their first tokens.
    The files are whole or absent, the same bytes each time; call it from one process.

    Returns:
      The plan's `.json`.
    """
    _check_length(length)
    tokens = rows = pieces = 0
    shards = split.record.shards
    try:
        with contextlib.ExitStack() as stack:
            files = {
                kind: stack.enter_context(atomic_write(plan_path(split, length, kind), "wb"))
                for kind in _ARRAYS
            }
            for number in bar(range(len(shards)), description=f"pack {length}", unit="shard"):
                plan = _pack(split.shard_document_ends(number), length)
                plan["rows"] += pieces
                for kind, dtype in _ARRAYS.items():
                    files[kind].write(plan[kind].astype(dtype).tobytes())
                tokens += int(plan["lengths"].sum())
                pieces, rows = pieces + len(plan["starts"]), rows + len(plan["rows"])
        path = plan_path(split, length)
        header = PlanRecord(
            sequence_length=length,
            rows=rows,
            pieces=pieces,
            documents=_made_from(split),
            sha256={kind: sha256(plan_path(split, length, kind)) for kind in _ARRAYS},
            sample={kind: sample_sha256(plan_path(split, length, kind)) for kind in _ARRAYS},
        )
        with atomic_write(path) as file:
            json.dump(dataclasses.asdict(header), file, indent=1)
    except OSError as error:
        raise UserError(
            "the pack plan cannot be written beside the shards",
            where=split.directory,
            expected="a directory with room that can be written",
            got=error.strerror,
            fix="make it writable once (the plan is kept there), or set rows.name=windows",
        ) from None
    assert tokens == split.num_tokens
    return path


def _pack(document_ends: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """The plan of one shard; `document_ends` [documents + 1] begins with the shard's start."""
    starts, sizes = document_ends[:-1], np.diff(document_ends)
    number = -(-sizes // length)
    within = ragged_arange(np.zeros_like(number), number) * length
    starts, left = np.repeat(starts, number) + within, np.repeat(sizes, number) - within
    lengths = np.minimum(left, length)
    bins = best_fit(lengths, length)
    _, first, row_of_bin = np.unique(bins, return_index=True, return_inverse=True)
    row = np.argsort(np.argsort(first))[row_of_bin]
    order = np.argsort(row, kind="stable")
    ends = np.cumsum(np.bincount(row, minlength=len(first)))
    return {"starts": starts[order], "lengths": lengths[order], "rows": ends}


def _made_from(split: Split) -> dict[str, str]:
    """The checksum of each shard's documents, by the shard's name."""
    return {shard.name: shard.sha256["documents"] for shard in split.record.shards}


def _read_plan(split: Split, length: int) -> dict[str, np.ndarray]:
    """The plan's arrays, mapped; a `UserError` if they are damaged or of another store."""
    path = plan_path(split, length)
    stale = _stale(path, "")
    plan = read_json(path, PlanRecord, what=stale.what, fix=stale.fix or "")
    if plan.format != PLAN_FORMAT or plan.sequence_length != length:
        raise _stale(path, f"format {plan.format}, rows of {plan.sequence_length}")
    if plan.documents != _made_from(split):
        raise _stale(path, "a plan made from other documents")
    arrays = {}
    for kind, dtype in _ARRAYS.items():
        file = plan_path(split, length, kind)
        size = file.stat().st_size if file.is_file() else 0
        wanted = (plan.rows if kind == "rows" else plan.pieces) * dtype.itemsize
        if size != wanted:
            raise _stale(file, f"{size} bytes, expected {wanted}")
        digest, noted = (
            (sha256, plan.sha256) if split.compares_whole else (sample_sha256, plan.sample)
        )
        if noted and digest(file) != noted.get(kind):
            raise _stale(file, "contents that are not those its .json notes")
        arrays[kind] = np.asarray(np.memmap(file, dtype, "r"))
    return arrays


def _stale(path: Path, why: str) -> UserError:
    return UserError(
        "a pack plan does not fit its token store",
        where=path,
        expected="the plan that was made for these shards",
        got=why,
        fix=f"delete {path.with_suffix('')}.* and start again: the plan is made anew",
    )


def _check_length(length: int) -> None:
    if length < 1:
        raise UserError(
            "rows need at least one token",
            where="data.sequence_length",
            expected="1 or more",
            got=length,
        )


class PackedRows:
    """Rows of a split's pack plan; `fill` is the share of their places that hold a token."""

    tokens_left_over = 0

    def __init__(self, split: Split, sequence_length: int, pad_id: int = 0):
        self.split, self.sequence_length, self.pad_id = split, sequence_length, pad_id
        self._plan = _read_plan(split, sequence_length)
        self.num_rows = len(self._plan["rows"])
        self.fill = split.num_tokens / (self.num_rows * sequence_length)

    def rows(self, indices: np.ndarray, epoch: int) -> Batch:
        """See `RowSource.rows`; every epoch has the same rows."""
        indices, length = np.asarray(indices, np.int64), self.sequence_length
        row, starts, sizes = self._pieces(indices)
        column, used = _columns(row, sizes, len(indices))
        shape, places = (len(indices), length), row * length + column
        padded = np.flatnonzero(used < length)
        ids, positions = segments(
            shape,
            np.concatenate([row, padded]),
            np.concatenate([column, used[padded]]),
        )
        real = np.arange(length) < used[:, None]
        return {
            **laid_out(self.split, shape, places, starts, sizes, self.pad_id),
            "segment_ids": ids * real,
            "positions": positions * real,
            **identity(indices, epoch),
        }

    def _pieces(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch row, start and length of every piece of these rows, in order."""
        ends = self._plan["rows"]
        first = np.where(indices > 0, ends[np.maximum(indices - 1, 0)], 0)
        number = ends[indices] - first
        pieces = ragged_arange(first, number)
        row = np.repeat(np.arange(len(indices)), number)
        return row, self._plan["starts"][pieces], self._plan["lengths"][pieces].astype(np.int64)


def _columns(row: np.ndarray, sizes: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each piece starts in its row, and how many places of each row are used."""
    used = np.bincount(row, weights=sizes, minlength=rows).astype(np.int64)
    return np.cumsum(sizes) - sizes - (np.cumsum(used) - used)[row], used
