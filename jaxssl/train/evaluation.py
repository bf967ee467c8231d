"""Validation: every row once, sums added up, divided at the end."""

import collections
from collections.abc import Callable
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
    """What chooses the best checkpoint and ends a run early: `loss`, or a score of the task, of
    which more is better. `auto` is the task's own, or the loss."""
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


def evaluate(
    step: Callable[[Params, Batch], dict[str, Any]],
    objective: Objective,
    params: Params,
    data: Data,
    mesh: Mesh,
    *,
    batch_size: int,
    limit: int | None = None,
    tokens_per_byte: float | None = None,
    show: bool = True,
) -> dict[str, float]:
    """The objective's loss and metrics over `data`, each row counted exactly once.

    Args:
      step: a jitted `make_eval_step`.
      tokens_per_byte: of the split, for bits per byte.

    Returns:
      `loss` (the weighted total), `loss/<name>`, `accuracy/<name>`, `perplexity`, `bits_per_byte`.
    """
    sharding = batch_sharding(mesh)
    places = hosts.local_places(sharding, batch_size)
    batches = data.eval_batches(batch_size, places, limit)
    count = -(-data.num_rows // batch_size)
    count = count if limit is None else min(count, limit)
    total, in_flight, rows = None, collections.deque(), []
    for batch in bar(batches, total=count, description="validate", enabled=show):
        objective.check_rows(batch)
        in_flight.append(step(params, hosts.global_batch(batch, sharding, batch_size)))
        if len(in_flight) > IN_FLIGHT:
            total = _added(total, in_flight.popleft(), rows)
    for sums in in_flight:
        total = _added(total, sums, rows)
    assert total is not None
    values = {
        "loss": metrics.total(objective.coefficients, total["losses"], total["weights"]),
        **metrics.ratios(total["metrics"]),
    }
    scores = getattr(objective, "scores", None)
    if scores is not None:
        chosen, predictions = in_order(rows)
        values |= scores(predictions, data.references(chosen))
    return {**values, **metrics.language_numbers(values, tokens_per_byte)}


def _added(total: Any, out: Any, rows: list[Any]) -> Any:
    """Sums of sums, on the host, in float64; the rows of a batch go to `rows`."""
    out = jax.device_get(out)
    rows.append(out.pop("rows"))
    return out if total is None else metrics.add_sums(total, out)


def in_order(rows: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Predictions of batches without padding, in the order of their examples, with their numbers.

    Each example is there once: batches hold it once. Predictions [B, T, ...] for each token are
    filled with zeros to the longest row of all.
    """
    joined = {name: _joined([batch[name] for batch in rows]) for name in rows[0]}
    real = joined.pop("example_weights") > 0
    words = joined.pop("example_id").astype(np.int64)
    examples = (words[:, 0] << 32 | words[:, 1])[real]
    order = np.argsort(examples, kind="stable")
    assert len(np.unique(examples)) == len(examples)
    return examples[order], {name: values[real][order] for name, values in joined.items()}


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The concatenation of arrays [B, T, ...] of different T, filled with zeros at the end."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    more = lambda part: [(0, 0), (0, longest - part.shape[1])] + [(0, 0)] * (part.ndim - 2)
    return np.concatenate([np.pad(part, more(part)) for part in parts])
