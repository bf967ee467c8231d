"""Encoding each example once, where nothing below the heads is trained.

A frozen body gives the same hidden states in every epoch. So they are computed once, without
dropout, and the run trains on them: a row then holds the states that the head reads, as the batch's
`features` [B, K, H], which `Model.encode` returns as they are.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxssl.core.errors import UserError
from jaxssl.core.types import Batch, Params
from jaxssl.data.examples import ExampleData, Examples
from jaxssl.models.model import Model
from jaxssl.parallel.mesh import replicated
from jaxssl.program.program import Program
from jaxssl.tasks.base import Task
from jaxssl.train.evaluation import DataPass, over_batches, row_numbers
from jaxssl.train.feeds import Feed, Feeds


def encode_once(program: Program, feeds: Feeds, params: Params) -> Feeds:
    """`feeds` whose data hold features in the place of texts. To be used under the mesh.

    Args:
      params: all the model's parameters.
    """
    (stream,), feed = program.streams, feeds.first
    task: Any = stream.objective
    check_memory(planned_bytes(program, feed))
    step = jax.jit(make_feature_step(program.model, task), out_shardings=replicated(program.mesh))

    def encoded(data: Any, name: str) -> ExampleData:
        size, words = feed.config.batch_size, f"encode {name}"
        rows = DataPass(data=data, mesh=program.mesh, batch_size=size, progress=words)
        return with_features(data, task.states_read, over_batches(step, params, rows))

    validation = feed.validation
    if validation is not None:
        validation = encoded(validation, "validation")
    feed = dataclasses.replace(feed, train=encoded(feed.train, "train"), validation=validation)
    return dataclasses.replace(feeds, streams={stream.name: feed})


def planned_bytes(program: Program, feed: Feed) -> int:
    """The memory that features will take in each process, in bytes."""
    task: Any = program.streams[0].objective
    splits: list[Any] = [feed.train, feed.validation]
    examples = [data.examples for data in splits if data is not None]
    read = task.states_read
    states = sum(len(x.tokens) if read is None else x.num_rows * read for x in examples)
    size = jax.numpy.dtype(program.model.precision.compute).itemsize
    return states * program.model.config.hidden_size * size


def check_memory(size: int) -> None:
    """Refuses features of more than half of the machine's memory.

    Raises:
      UserError: says how large they are.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory // 2:
        raise UserError(
            "the features of all examples do not fit into memory",
            where="freezing.cache",
            expected=f"at most half of the {memory:,} bytes that this machine has",
            got=f"{size:,} bytes",
            fix="set freezing.cache=false: each example is then encoded in every epoch",
        )


def make_feature_step(model: Model, task: Task) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """A function `(params, batch) -> {features, example_id, example_weights}`."""

    def step(params: Params, batch: Batch) -> dict[str, jax.Array]:
        hidden = model.encode(params, batch)
        features = hidden if task.states_read is None else task.head_inputs(model, hidden, batch)
        names = ("example_id", "example_weights")
        return {"features": features, **{name: batch[name] for name in names}}

    return step


def with_features(data: ExampleData, reads: int | None, batches: Any) -> ExampleData:
    """`data` with the features of all its rows, from the outputs of a feature step.

    Args:
      reads: how many hidden states of a row the head reads; None for each token's.
    """
    examples = data.examples
    assert not examples.sides
    starts = examples.starts if reads is None else np.arange(examples.num_rows + 1) * reads
    lengths, features = np.diff(starts), None
    for out in batches:
        rows, real = row_numbers(out)
        values = out["features"][real]
        if features is None:
            features = np.zeros((starts[-1], values.shape[-1]), values.dtype)
        column = np.arange(values.shape[1])
        inside = column < lengths[rows][:, None]
        features[(starts[rows][:, None] + column)[inside]] = values[inside]
    assert features is not None
    if reads is None:
        per_token = {**examples.per_token, "features": (features, 0.0)}
        return dataclasses.replace(
            data, examples=dataclasses.replace(examples, per_token=per_token)
        )
    condensed = Examples(
        tokens=np.zeros(starts[-1], np.int32),
        starts=starts,
        second=np.full(examples.num_rows, reads, np.int32),
        pad_id=examples.pad_id,
        per_row=examples.per_row,
        per_token={"features": (features, 0.0)},
    )
    planned = examples.lengths  # so that the batches are those of the texts
    return dataclasses.replace(
        data, examples=condensed, edges=np.array([[reads]]), plan_lengths=planned
    )


def feature_bytes(data: ExampleData) -> int:
    """The memory that the features of encoded data take, in bytes."""
    return data.examples.per_token["features"][0].nbytes


def features_of(program: Program, batch: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of texts once it is encoded."""
    task: Any = program.streams[0].objective
    count, length = batch["tokens"].shape
    length = length if task.states_read is None else task.states_read
    width, dtype = program.model.config.hidden_size, program.model.precision.compute
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    for name in ("tokens", "segment_ids", "positions", "token_types"):
        shapes[name] = jax.ShapeDtypeStruct((count, length), batch[name].dtype)
    features = jax.ShapeDtypeStruct((count, length, width), jax.numpy.dtype(dtype))
    return {**shapes, "features": features}
