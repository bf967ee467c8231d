"""Validation: every row once, sums added up, divided at the end."""

import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

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
    early_stopping: EarlyStopping | None = None
    """null trains all steps."""

    def __post_init__(self):
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
    total, in_flight = None, collections.deque()
    for batch in bar(batches, total=count, description="validate", enabled=show):
        objective.check_rows(batch)
        in_flight.append(step(params, hosts.global_batch(batch, sharding, batch_size)))
        if len(in_flight) > IN_FLIGHT:
            total = _added(total, in_flight.popleft())
    for sums in in_flight:
        total = _added(total, sums)
    assert total is not None
    values = {
        "loss": metrics.total(objective.coefficients, total["losses"], total["weights"]),
        **metrics.ratios(total["metrics"]),
    }
    return {**values, **metrics.language_numbers(values, tokens_per_byte)}


def _added(total: Any, sums: Any) -> Any:
    """Sums of sums, on the host, in float64."""
    sums = jax.device_get(sums)
    return sums if total is None else metrics.add_sums(total, sums)
