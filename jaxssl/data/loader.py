"""Batches: what a step trains on is a function of the step's number, on any number of hosts.

Grain holds the counter and reads ahead in one thread; its index is a whole global batch, because
a batch is one vectorised gather where rows taken one by one are a hundred times slower.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.data.config import StoreConfig
from jaxssl.data.order import permute
from jaxssl.data.store.documents import Documents, check_sentences
from jaxssl.data.store.packing import Packed
from jaxssl.data.store.rows import Batch, RowSource
from jaxssl.data.store.store import TokenStore

ENDLESS = 1 << 62


def open_rows(
    config: StoreConfig, split: str, store: TokenStore | None = None, marks: bool = False
) -> RowSource:
    """Opens the rows of a split as `config` cuts them (`store`: the open store, if there is one).

    Args:
      marks: rows hand on which tokens lie in marked spans.

    Raises:
      UserError: no such store or split, a damaged store, a split too small for these rows, marks
        or sentences that are wanted of a store without.
    """
    store = store or TokenStore.open(config.store)
    if isinstance(config.rows, Documents) and config.rows.unit == "sentence":
        check_sentences(store.manifest, store.path)
    return config.rows.open(
        store.split(split, marks), config.sequence_length, config.seed, store.special_ids
    )


def make_plans(config: StoreConfig, store: TokenStore, splits: Iterable[str]) -> None:
    """Makes the pack plans that `config` needs and `prepare` did not; call it from one process."""
    for name in splits:
        if isinstance(config.rows, Packed):
            config.rows.make_plan(store.split(name), config.sequence_length)


def load(
    config: StoreConfig,
    split: str = "train",
    *,
    start_step: int = 0,
    places: np.ndarray | None = None,
    store: TokenStore | None = None,
    marks: bool = False,
) -> "TrainLoader":
    """The split's shuffled batches without end, from `start_step` on; all rows without `places`."""
    places = np.arange(config.batch_size) if places is None else places
    rows = open_rows(config, split, store, marks)
    batches = StoreBatches(rows, config.batch_size, config.seed, places)
    return TrainLoader(batches, start_step=start_step, prefetch=config.prefetch)


class Batches(Protocol):
    """The batches of a run by number; what Grain calls a random-access source.

    Attributes:
      per_epoch: batches of an epoch.
      left_over: rows that each epoch leaves out.
    """

    per_epoch: int
    left_over: int

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch:
        """This host's rows of batch `index`."""
        ...


class Data(Protocol):
    """What a run trains or validates on. `places` are the places in a global batch that this host
    reads (see `parallel.hosts.local_places`)."""

    @property
    def num_rows(self) -> int: ...

    def train_batches(self, batch_size: int, seed: int, places: np.ndarray) -> Batches:
        """Shuffled batches without end."""
        ...

    def eval_batches(
        self, batch_size: int, places: np.ndarray, limit: int | None = None, fill: bool = False
    ) -> Iterator[Batch]:
        """Every row once, or `limit` batches spread over them; what is missing is padding.

        Args:
          fill: rows of the batch before are in the place of padding, with `example_weights` 0:
            where rows are told from each other, all then are from as many.
        """
        ...

    def references(self, chosen: np.ndarray) -> Any:
        """What predictions for the rows at `chosen` are scored against; None for text alone."""
        ...


class TrainLoader:
    """Iterator of this host's rows of global batches, in steps that are numbered from 0.

    `step` is the number of the batch that comes next: a loader made with it as `start_step`
    continues exactly.

    Args:
      batches: of the run.
      start_step: the first batch's number.
      prefetch: batches to read ahead.
    """

    def __init__(self, batches: Batches, *, start_step: int = 0, prefetch: int = 4):
        import grain

        self.batches, self.step = batches, start_step
        options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
        source: Any = batches
        data = grain.MapDataset.source(source).to_iter_dataset(options)
        self._iterator = iter(data)
        self._iterator.set_state({"next_index": start_step})

    def __iter__(self) -> "TrainLoader":
        return self

    def __next__(self) -> Batch:
        """The next batch, with a row for each of this host's places."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class StoreData:
    """The rows of a token store's split as something that a run trains or validates on."""

    source: RowSource

    @property
    def num_rows(self) -> int:
        return self.source.num_rows

    def references(self, chosen: np.ndarray) -> None:
        """Text has no labels."""

    def train_batches(self, batch_size: int, seed: int, places: np.ndarray) -> "StoreBatches":
        """See `StoreBatches`."""
        return StoreBatches(self.source, batch_size, seed, places)

    def eval_batches(
        self, batch_size: int, places: np.ndarray, limit: int | None = None, fill: bool = False
    ) -> Iterator[Batch]:
        """Batches that hold every row exactly once, in order, as they are in epoch 0.

        All hosts get the same number of batches. Places of the last batch that no row is left for
        are padding: segment_ids 0, tokens the pad id, everything else 0. With `fill` they are rows
        of the batch before, if there is one. `example_weights` float32 [B] is 0 of both.
        """
        source = self.source
        total = source.num_rows if limit is None else min(source.num_rows, limit * batch_size)
        for number in range(-(-total // batch_size)):
            here = number * batch_size + places
            missing = here >= total
            taken = np.where(missing & (number > 0), here - batch_size, np.minimum(here, total - 1))
            rows = source.rows(taken * source.num_rows // total, 0)
            if not (fill and number):
                rows = _blank(rows, missing, source.pad_id)
            yield {**rows, "example_weights": (~missing).astype(np.float32)}


class StoreBatches:
    """Batch s of a run is batch `s % per_epoch` of epoch `s // per_epoch`.

    An epoch permutes the rows anew and leaves the last `left_over` of its order out.

    Raises:
      UserError: there are fewer rows than one batch.
    """

    def __init__(self, source: RowSource, batch_size: int, seed: int, places: np.ndarray):
        if batch_size > source.num_rows:
            raise UserError(
                "the split has fewer rows than one batch",
                where="data.batch_size",
                expected=f"at most {source.num_rows}, the split's rows",
                got=batch_size,
                fix="use a smaller batch_size or sequence_length, or prepare more text",
            )
        self.source, self._seed = source, seed
        self.per_epoch, self.left_over = divmod(source.num_rows, batch_size)
        self._batch_size, self._places = batch_size, places

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        epoch, number = divmod(int(index), self.per_epoch)
        places = number * self._batch_size + self._places
        return self.source.rows(permute(places, self.source.num_rows, self._seed, epoch), epoch)


def _blank(rows: Batch, missing: np.ndarray, pad_id: int) -> Batch:
    if missing.any():
        for name, values in rows.items():
            values[missing] = pad_id if name == "tokens" else 0
    return rows
