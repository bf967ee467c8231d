"""The program of a run on devices that are not there: what a plan compiles."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxssl.program.program import Program
from jaxssl.run.build import make_program, read_data
from jaxssl.run.config import RunConfig
from jaxssl.run.feeds import Opened
from jaxssl.run.tokenizers import make_vocabulary

OPENED_ROWS = 1
"""Of a batch that is read, to see what a batch is made of: the data may be a sample."""


def plan_program(config: RunConfig, devices: Sequence[Any]) -> Program:
    """What `build` makes, for these devices. The data may be few: a batch's rows are one row,
    repeated.

    Raises:
      UserError: as of `build`.
    """
    streams = config.all_streams
    few = {
        name: dataclasses.replace(
            stream, data=dataclasses.replace(stream.data, batch_size=OPENED_ROWS), validation=None
        )
        for name, stream in streams.items()
    }
    read, tokenizer, opened = read_data(_with(config, few))
    objectives = {name: each.config.objective for name, each in opened.items()}
    whole = {
        name: dataclasses.replace(stream, objective=objectives[name], validation=None)
        for name, stream in streams.items()
    }
    wide = {name: _widened(each, streams[name].data.batch_size) for name, each in opened.items()}
    vocabulary = make_vocabulary(tokenizer, read.model.vocab_size)
    return make_program(_with(read, whole), vocabulary, wide, {}, devices)[0]


def _with(config: RunConfig, streams: Any) -> RunConfig:
    if config.streams:
        return dataclasses.replace(config, streams=streams)
    (stream,) = streams.values()
    evaluation = dataclasses.replace(config.evaluation, split=stream.validation)
    return dataclasses.replace(
        config, objective=stream.objective, data=stream.data, evaluation=evaluation
    )


def _widened(opened: Opened, rows: int) -> Opened:
    """With so many rows in its largest batch, all alike."""
    largest = {
        name: np.broadcast_to(x[:1], (rows, *x.shape[1:])) for name, x in opened.largest.items()
    }
    splits: Any = {"train": _OneBatch(rows)}
    return dataclasses.replace(opened, largest=largest, splits=splits)


@dataclasses.dataclass(frozen=True)
class _OneBatch:
    """Data of which a plan asks nothing but how many there are."""

    num_rows: int
    per_epoch: int = 1

    def train_batches(self, *args: Any) -> "_OneBatch":
        del args
        return self
