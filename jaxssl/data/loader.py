"""Batches: what a step trains on is a function of the step's number, on any number of hosts.

Grain holds the counter and reads ahead in one thread; its index is a whole global batch, because
a batch is one vectorised gather where rows taken one by one are a hundred times slower.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxssl.core.bounds import check_at_least, check_seed
from jaxssl.core.errors import UserError
from jaxssl.data.order import permute
from jaxssl.data.packing import Packed
from jaxssl.data.pairs import Pairs
from jaxssl.data.rows import Batch, RowSource, Windows
from jaxssl.data.store import TokenStore

Rows = Windows | Packed | Pairs
ENDLESS = 1 << 62


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run reads: a token store, how it is cut into rows, and how many a step."""

    store: str
    """Directory of the token store (made by `jaxssl prepare`)."""
    rows: Rows = Windows()
    """How the store is cut into rows: windows, packed or pairs."""
    sequence_length: int = 128
    """Length of a row, in tokens."""
    batch_size: int = 32
    """Rows a step, over all hosts and devices."""
    seed: int = 0
    """Of the order of the rows, and of what sentence pairs draw; 0 to 2**32 - 1."""
    prefetch: int = 4
    """Batches that are read ahead, in one thread; 0 reads each when it is asked for."""

    def __post_init__(self):
        check_at_least(1, self, "sequence_length", "batch_size")
        check_at_least(0, self, "prefetch")
        check_seed(self)


def open_rows(config: DataConfig, split: str, store: TokenStore | None = None) -> RowSource:
    """Opens the rows of a split as `config` cuts them (`store`: the open store, if there is one).

    Raises:
      UserError: no such store or split, a damaged store, a split too small for these rows.
    """
    if config.sequence_length < 1:
        raise _too_small("sequence_length", config.sequence_length)
    store = store or TokenStore.open(config.store)
    return config.rows.open(
        store.split(split), config.sequence_length, config.seed, store.special_ids
    )


def load(
    config: DataConfig,
    split: str = "train",
    *,
    start_step: int = 0,
    places: np.ndarray | None = None,
    store: TokenStore | None = None,
) -> "TrainLoader":
    """The split's shuffled batches without end, from `start_step` on."""
    return TrainLoader(
        open_rows(config, split, store),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        places=places,
        prefetch=config.prefetch,
    )


class TrainLoader:
    """Iterator of this host's rows of global batches, in steps that are numbered from 0.

    Step s is batch `s % batches_per_epoch` of epoch `s // batches_per_epoch`. An epoch permutes
    the rows anew and leaves the last `rows_left_over` of its order out. `step` is the number of
    the batch that comes next: a loader made with it as `start_step` continues exactly.

    Args:
      source: of the rows.
      batch_size: rows of a global batch.
      seed: of the order.
      start_step: the first batch's number.
      places: the places in a global batch that this host reads; None for all.
      prefetch: batches to read ahead.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        places: np.ndarray | None = None,
        prefetch: int = 4,
    ):
        import grain

        _check_batch(source, batch_size)
        self._batches = _Batches(source, batch_size, seed, _places(batch_size, places))
        self.batches_per_epoch = self._batches.per_epoch
        self.rows_left_over = source.num_rows % batch_size
        self.step = start_step
        options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
        batches: Any = self._batches
        data = grain.MapDataset.source(batches).to_iter_dataset(options)
        self._iterator = iter(data)
        self._iterator.set_state({"next_index": start_step})

    def __iter__(self) -> "TrainLoader":
        return self

    def __next__(self) -> Batch:
        """The next batch: see `RowSource.rows`, with a row for each of `places`."""
        try:
            batch = next(self._iterator)
        except BaseException:
            # The iterator would go on with the batch after the one that failed.
            self.close()
            raise
        self.step += 1
        return batch

    def close(self) -> None:
        """Ends the reading thread. Safe to call twice."""
        self._iterator.close()

    def __enter__(self) -> "TrainLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Batches:
    """Batch s of the run, at index s: Grain's random-access source."""

    def __init__(self, source: RowSource, batch_size: int, seed: int, places: np.ndarray):
        self.source, self.seed = source, seed
        self.per_epoch = source.num_rows // batch_size
        self._batch_size, self._places = batch_size, places

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        epoch, number = divmod(int(index), self.per_epoch)
        places = number * self._batch_size + self._places
        return self.source.rows(permute(places, self.source.num_rows, self.seed, epoch), epoch)


def eval_batches(
    source: RowSource,
    batch_size: int,
    *,
    places: np.ndarray | None = None,
    limit: int | None = None,
) -> Iterator[Batch]:
    """This host's rows of batches that hold every row exactly once, in order.

    All hosts get the same number of batches. Places of the last batch that no row is left for are
    padding: segment_ids 0, tokens the pad id, everything else 0.

    Args:
      source: of the rows, as they are in epoch 0.
      batch_size: rows of a global batch.
      places: the places in a global batch that this host reads; None for all.
      limit: at most so many global batches, None for all.
    """
    mine = _places(batch_size, places)
    total = source.num_rows if limit is None else min(source.num_rows, limit * batch_size)

    def generate() -> Iterator[Batch]:
        for number in range(-(-total // batch_size)):
            places = number * batch_size + mine
            rows = source.rows(np.minimum(places, total - 1) * source.num_rows // total, 0)
            yield _blank(rows, places >= total, source.pad_id)

    return generate()


def _blank(rows: Batch, missing: np.ndarray, pad_id: int) -> Batch:
    if missing.any():
        for name, values in rows.items():
            values[missing] = pad_id if name == "tokens" else 0
    return rows


def _places(batch_size: int, places: np.ndarray | None) -> np.ndarray:
    if batch_size < 1:
        raise _too_small("batch_size", batch_size)
    return np.arange(batch_size) if places is None else places


def _check_batch(source: RowSource, batch_size: int) -> None:
    if batch_size > source.num_rows:
        raise UserError(
            "the split has fewer rows than one batch",
            where="data.batch_size",
            expected=f"at most {source.num_rows}, the split's rows",
            got=batch_size,
            fix="use a smaller batch_size or sequence_length, or prepare more text",
        )


def _too_small(field: str, value: int) -> UserError:
    return UserError(
        "a size must be positive", where=f"data.{field}", expected="1 or more", got=value
    )
