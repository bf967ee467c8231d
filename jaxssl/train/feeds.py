"""What a run is fed: the data of its streams, and what chooses its best checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxssl.data.config import DataConfig
from jaxssl.data.loader import Data, TrainLoader
from jaxssl.data.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Feed:
    """The data of one stream.

    Attributes:
      config: how they are batched.
      train: what is trained on.
      validation: what is validated on, if anything.
      tokens_per_byte: of the validation data, where they are text.
    """

    config: DataConfig
    train: Data
    validation: Data | None = None
    tokens_per_byte: float | None = None

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        places = np.arange(self.config.batch_size)
        return self.train.train_batches(self.config.batch_size, self.config.seed, places).per_epoch

    def loader(self, places: np.ndarray, start: int) -> TrainLoader:
        """The batches from number `start` on, of this host's places."""
        config = self.config
        batches = self.train.train_batches(config.batch_size, config.seed, places)
        return TrainLoader(batches, start_step=start, prefetch=config.prefetch)


@dataclass(frozen=True, kw_only=True, eq=False)
class Feeds:
    """The data of all streams.

    Attributes:
      streams: by their names; the first one's epochs count.
      metric: the number of a validation that chooses the best checkpoint.
      encodes_once: whether each example is encoded once, since nothing below the heads is trained.
    """

    streams: Mapping[str, Feed]
    tokenizer: Tokenizer
    metric: str = "loss"
    encodes_once: bool = False

    @property
    def first(self) -> Feed:
        """The stream whose epochs count."""
        return next(iter(self.streams.values()))

    @property
    def validated(self) -> dict[str, Feed]:
        """The streams with data to validate on."""
        return {name: feed for name, feed in self.streams.items() if feed.validation is not None}
