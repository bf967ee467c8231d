"""Validation: every row once, sums added up, divided at the end."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxssl.core.bounds import check_above_zero
from jaxssl.core.errors import UserError
from jaxssl.core.progress import bar
from jaxssl.core.types import Batch, Params
from jaxssl.data.loader import Data
from jaxssl.objectives.base import Objective
from jaxssl.parallel import hosts
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.train import metrics
from jaxssl.train.stopping import EarlyStopping

IN_FLIGHT = 2
"""Batches that the device works on while the host reads the next one."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """When and on what to validate."""

    every: int = 1000
    """Steps between validations; 0 validates only at the end."""
    split: str | None = "validation"
    """Split of the token store; null trains without validation."""
    batches: int | None = None
    """At most so many batches, spread evenly over the split; null is the whole split."""
    every_epochs: float | None = None
    """Passes over the training data between validations; if given, it decides `every`."""
    best_by: str = "auto"
    """What chooses the best checkpoint and ends a run early: a number of the validation. Less is
    better of losses, `perplexity`, `bits_per_byte`, `mse`, `mae` and `hamming_loss`, more of all
    others. `auto` is the task's own, or the loss."""
    early_stopping: EarlyStopping | None = None
    """null trains all steps."""

    def __post_init__(self):
        if self.every_epochs is not None:
            check_above_zero(self, "every_epochs")
        if self.every < 0 or (self.batches is not None and self.batches < 1):
            raise UserError(
                "an evaluation setting is out of range",
                where="every, batches",
                expected="every >= 0, batches >= 1",
                got=(self.every, self.batches),
            )
        if self.split is None and self.early_stopping is not None:
            raise UserError(
                "early stopping needs a validation split",
                where="split",
                expected="the name of a split",
                got="null",
            )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What came out of an evaluation.

    Attributes:
      values: the numbers that people read.
      rows: int64 [N], which rows of the data were evaluated, ascending; empty for text alone.
      predictions: of a task, arrays [N, ...] in the order of `rows`.
    """

    values: dict[str, float]
    rows: np.ndarray
    predictions: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False, kw_only=True)
class DataPass:
    """One pass over data: each row once, in batches that are laid out over a mesh.

    Attributes:
      limit: at most so many batches, spread evenly over the data; None is all of them.
      progress: the words of a progress bar; None shows none.
      fill: whether the last batch is filled up with rows that do not count, see `Data`.
    """

    data: Data
    mesh: Mesh
    batch_size: int
    limit: int | None = None
    progress: str | None = None
    fill: bool = False

    @property
    def num_batches(self) -> int:
        """Of the pass; the last one may hold padding."""
        count = -(-self.data.num_rows // self.batch_size)
        return count if self.limit is None else min(count, self.limit)


def evaluate(
    step: Callable[[Params, Batch], dict[str, Any]],
    objective: Objective,
    params: Params,
    rows: DataPass,
    tokens_per_byte: float | None = None,
) -> Evaluation:
    """The objective's loss and metrics over data, each row counted exactly once.

    Args:
      step: a jitted `make_eval_step`.
      tokens_per_byte: of the split, for bits per byte.

    Returns:
      Its values are `loss` (the weighted total), `loss/<name>`, `accuracy/<name>`, `perplexity`,
      `bits_per_byte`, and the scores of a task.
    """
    if objective.whole_batch:
        check_rows_enough(rows, objective)
        rows = dataclasses.replace(rows, fill=True)
    total, outputs = None, []
    for sums in over_batches(step, params, rows, check=objective.check_rows):
        outputs.append(sums.pop("rows"))
        total = sums if total is None else metrics.add_sums(total, sums)
    assert total is not None
    values = {
        "loss": metrics.total(objective, total["losses"], total["weights"]),
        **metrics.finished(objective, total["metrics"]),
    }
    values |= metrics.language_numbers(objective, values, tokens_per_byte)
    if not outputs[0]:
        return Evaluation(values, np.zeros(0, np.int64), {})
    chosen, predictions = in_order(outputs)
    values |= objective.scores(predictions, rows.data.references(chosen))
    return Evaluation(values, chosen, predictions)


def check_rows_enough(rows: DataPass, objective: Objective) -> None:
    """Refuses to tell rows from each other where there is one of them.

    Raises:
      UserError: says so.
    """
    least = objective.least_rows
    if min(rows.batch_size, rows.data.num_rows) < least:
        raise UserError(
            "the rows of a batch are told from each other, and there is one row",
            where="data.batch_size, evaluation.split",
            expected=f"at least {least} rows in a batch",
            got=f"batches of {rows.batch_size}, {rows.data.num_rows} rows in all",
        )


def over_batches(
    step: Callable[[Params, Batch], Any],
    params: Params,
    rows: DataPass,
    check: Callable[[Batch], None] | None = None,
) -> Iterator[Any]:
    """What `step` makes of each batch, on the host; the device works on some batches ahead.

    Args:
      check: refuses rows that `step` would have to cut.
    """
    sharding, size, words = batch_sharding(rows.mesh), rows.batch_size, rows.progress
    places = hosts.local_places(sharding, size)
    batches = rows.data.eval_batches(size, places, rows.limit, rows.fill)
    shown = words is not None
    in_flight = collections.deque()
    for batch in bar(batches, total=rows.num_batches, description=words or "", enabled=shown):
        if check is not None:
            check(batch)
        in_flight.append(step(params, hosts.global_batch(batch, sharding, size)))
        if len(in_flight) > IN_FLIGHT:
            yield jax.device_get(in_flight.popleft())
    while in_flight:
        yield jax.device_get(in_flight.popleft())


def in_order(rows: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predictions of batches without padding, in the order of their examples, with their numbers.

    Each example is there once: batches hold it once. Predictions [B, T, ...] for each token are
    filled with zeros to the longest row of all.
    """
    joined = {name: _joined([batch[name] for batch in rows]) for name in rows[0]}
    examples, real = row_numbers(joined)
    del joined["example_weights"], joined["example_id"]
    order = np.argsort(examples, kind="stable")
    assert len(np.unique(examples)) == len(examples)
    return examples[order], {name: values[real][order] for name, values in joined.items()}


def row_numbers(batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a batch's rows without padding, int64, and which rows those are, bool [B]."""
    real = batch["example_weights"] > 0
    words = batch["example_id"].astype(np.int64)
    return (words[:, 0] << 32 | words[:, 1])[real], real


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The concatenation of arrays [B, T, ...] of different T, filled with zeros at the end."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)

    def filled(part: np.ndarray) -> np.ndarray:
        after = [0, longest - part.shape[1], *[0] * (part.ndim - 2)]
        return np.pad(part, [(0, more) for more in after])

    return np.concatenate([filled(part) for part in parts])
