"""What a run reads, as its configuration says it: a token store, labelled tables, or nothing."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from jaxssl.core.bounds import check_at_least, check_local, check_seed
from jaxssl.core.errors import UserError
from jaxssl.data.store.documents import Documents
from jaxssl.data.store.packing import Packed
from jaxssl.data.store.pairs import Pairs
from jaxssl.data.store.rows import Windows
from jaxssl.data.tables.config import TableFile, TableSplits
from jaxssl.data.tables.inputs import unused_options


@dataclass(frozen=True, kw_only=True)
class DataConfig(ABC):
    """What all kinds of data have."""

    batch_size: int = 32
    """Rows a step, over all hosts and devices."""
    seed: int = 0
    """Of the order of the rows, and of what sentence pairs draw; 0 to 2**32 - 1."""
    prefetch: int = 4
    """Batches that are read ahead, in one thread; 0 reads each when it is asked for."""

    def __post_init__(self):
        check_at_least(1, self, "batch_size")
        check_at_least(0, self, "prefetch")
        check_seed(self)

    @property
    @abstractmethod
    def longest(self) -> tuple[int, str]:
        """The most tokens of a row, and the key that says so."""

    @property
    @abstractmethod
    def source(self) -> str:
        """Where it comes from, for people."""

    @property
    def usual_split(self) -> str | None:
        """The split that is evaluated unless another is asked for; None for data without splits."""
        return "validation"

    @property
    def trained_length(self) -> int | None:
        """The length of every row, where all have one."""
        return None

    def unused_options(self, file: TableFile) -> str | None:
        """What another file is read without that these were read with, in words; None where there
        is nothing to say."""
        return None

    @abstractmethod
    def of_store(self, store: str) -> "StoreConfig":
        """How rows of another token store are read.

        Raises:
          UserError: these data are no rows of a store.
        """


@dataclass(frozen=True, kw_only=True)
class StoreConfig(DataConfig):
    """A token store, how it is cut into rows, and how many a step."""

    name: Literal["store"] = "store"
    """Text that `jaxssl prepare` made a token store of."""
    store: str
    """Directory of the token store (made by `jaxssl prepare`)."""
    verify: bool | None = None
    """Compare all bytes of the store with their checksums at the start; false compares a sample of
    every file, and null all of a store of at most 1 GiB and a sample of a larger one. Ids that the
    vocabulary does not have are refused as they are read, too."""
    rows: Windows | Packed | Documents | Pairs = Windows()
    """How the store is cut into rows: windows, packed, documents or pairs."""
    sequence_length: int = 128
    """Length of a row, in tokens."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "sequence_length")
        check_local(self, "store")

    @property
    def longest(self) -> tuple[int, str]:
        return self.sequence_length, "data.sequence_length"

    @property
    def source(self) -> str:
        return self.store

    @property
    def trained_length(self) -> int | None:
        return self.sequence_length

    def of_store(self, store: str) -> "StoreConfig":
        return dataclasses.replace(self, store=store)


@dataclass(frozen=True, kw_only=True)
class TablesConfig(DataConfig):
    """Labelled examples, and how they are batched."""

    name: Literal["tables"] = "tables"
    """Tables with labels."""
    tables: TableSplits
    """Where the examples come from."""
    max_length: int = 128
    """Longest row, in tokens. What is longer loses its end, or is read in windows, as the task
    has it; both are said."""
    row_lengths: int = 4
    """Into how many lengths rows are padded; each is compiled once."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "max_length", "row_lengths")

    @property
    def longest(self) -> tuple[int, str]:
        return self.max_length, "data.max_length"

    @property
    def source(self) -> str:
        return self.tables.train.source

    def unused_options(self, file: TableFile) -> str | None:
        return unused_options(self.tables.train, file)

    def of_store(self, store: str) -> StoreConfig:
        raise UserError(
            "a fine-tuned run has no token store",
            where="--store",
            expected="--split, or other files: --with data.tables.test.path=FILE",
            got=store,
        )


@dataclass(frozen=True, kw_only=True)
class ImportedData(DataConfig):
    """Nothing: the model was trained elsewhere. What it is used on, and how that is batched."""

    name: Literal["imported"] = "imported"
    """A model of elsewhere."""
    table: TableFile | None = None
    """Labelled data for `evaluate`."""
    max_length: int = 128
    """Longest row, in tokens."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(1, self, "max_length")

    @property
    def longest(self) -> tuple[int, str]:
        return self.max_length, "data.max_length"

    @property
    def source(self) -> str:
        return "elsewhere"

    @property
    def usual_split(self) -> None:
        return None

    def of_store(self, store: str) -> StoreConfig:
        return StoreConfig(store=store, sequence_length=self.max_length, batch_size=self.batch_size)
