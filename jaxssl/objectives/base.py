"""The contract of an objective: what is minimised, as pure functions of a batch.

A step corrupts its batch once (`corrupt`), counts what the losses will be divided by (`weights`),
runs the model on each microbatch (`forward`) and adds up sums (`sums`); what needs all rows of the
batch at once gets a summary of each (`summary`, `whole_sums`). The loss is
`sum_n factor_n * sum_n / weight_n`, divided by weights of the whole global batch, so that neither
microbatches nor devices change it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxssl.core.errors import UserError
from jaxssl.core.ramp import Factor, factor_at
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.network import Network

Outputs = Mapping[str, jax.Array]
"""What `forward` makes of a microbatch; `hidden` [B, T, H] unless an objective has its own."""


class Sums(NamedTuple):
    """What one microbatch adds.

    Attributes:
      losses: {loss name: summed loss}; differentiated.
      metrics: {metric name: (sum, weight)}, numbers or arrays; added up and divided at the very
        end. `nll/NAME` is shown as the loss of that name.
    """

    losses: dict[str, jax.Array]
    metrics: dict[str, tuple[jax.Array, jax.Array]]


LOWER_IS_BETTER = frozenset(
    ("loss", "nll", "perplexity", "bits_per_byte", "mse", "mae", "rmse", "hamming_loss")
)
"""The numbers of an evaluation of which less is better, by what comes before a "/"; of all others
more is."""


@dataclass(frozen=True)
class Loss:
    """One loss of an objective.

    Attributes:
      factor: in the total; one that moves does so over steps.
      per_token: whether it is in nats per token, so that perplexity and bits per byte can be made
        of it.
      shown: its name for people; empty is its name without underscores.
      sees_both_sides: whether each token is guessed from both of its sides: such nats do not
        compare with those of a causal model.
    """

    factor: Factor = 1.0
    per_token: bool = False
    shown: str = ""
    sees_both_sides: bool = False


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A frozen dataclass whose fields are its configuration, with these pure functions.

    `jax.jit` may trace all but `check`, `check_networks` and `check_rows`. Only `name`, `heads`,
    `weights` and `sums` must be given; the rest has the meaning that most objectives need.
    """

    name: str
    """What recipes call it."""

    def __post_init__(self):  # noqa: B027
        """Refuses fields that do not go together. Raises UserError."""

    @property
    def losses(self) -> Mapping[str, Loss]:
        """By name; one of the objective's own name."""
        return {self.name: Loss()}

    @property
    def heads(self) -> tuple[Head, ...]:
        """The model heads it needs."""
        return ()

    def networks(self, model: ModelConfig) -> Mapping[str, Network]:
        """The networks that it needs beside the main one, by name: where their parameters lie, and
        what `model.network(name)` finds. Of the name "" it takes what the main one borrows."""
        return {}

    @property
    def named_tasks(self) -> Mapping[str, Any]:
        """Those with labels, it or its terms, by their names in a batch; see `tasks.base.Task`."""
        return {}

    @property
    def tasks(self) -> tuple[Any, ...]:
        """The same without names."""
        return tuple(self.named_tasks.values())

    @property
    def metric(self) -> str:
        """The score of a validation that chooses the best checkpoint."""
        return "loss"

    @property
    def own_forward(self) -> bool:
        """Whether `forward` is another than the base's: what another term computes does not do."""
        return type(self).forward is not Objective.forward

    def sees_corrupted(self, training: bool) -> bool:
        """Whether, as a term of a combination that changes no inputs itself, it reads those that
        another term has changed; else it reads the batch as it is."""
        return False

    def learn_labels(self, train: Any) -> "Objective":
        """The objective with what it needs to know of the table `train` filled in."""
        return self

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:  # noqa: B027
        """Refuses a model or tokenizer that it cannot train. Raises UserError."""

    def check_networks(  # noqa: B027
        self, model: ModelConfig, networks: Mapping[str, ModelConfig]
    ) -> None:
        """Refuses shapes of the networks beside the main one, by name, that it cannot be trained
        with. Raises UserError."""

    def check_rows(self, rows: Batch) -> None:  # noqa: B027
        """Refuses numpy rows that would not fit its static shapes. Raises UserError."""

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """Whether a pooler that the model has stays; one that stays and is not read is told."""
        return True

    def raw_length(self, length: int) -> int:
        """How many tokens are read of a store for a row of `length` tokens in the model: more,
        where `corrupt` makes rows shorter, as span corruption does."""
        return length

    @property
    def reads_marks(self) -> bool:
        """Whether it reads which tokens of a store lie in marked spans: `marks` uint8 [B, T], 1
        where one begins, 2 where it goes on, 0 elsewhere. Batches have them only then."""
        return False

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """The entries that it adds to the batch or changes in it, each row by its own key."""
        return {}

    @abstractmethod
    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """{loss name: what its sum over this corrupted batch is divided by}: of the batch alone."""

    def tokens(self, batch: Batch) -> jax.Array:
        """How many tokens count as trained on: of the batch as it was read, with what `corrupt`
        added to it."""
        return jnp.sum(batch["segment_ids"] > 0)

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """What `sums` and `predict` need of the model, over one corrupted microbatch.

        Args:
          key: for dropout; None in evaluation.
        """
        return {"hidden": model.encode(params, batch, key)}

    @abstractmethod
    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Sums over one corrupted microbatch; `key` is for dropout in a head, None in
        evaluation."""

    @property
    def whole_batch(self) -> bool:
        """Whether a loss needs every row of the batch at once, as contrastive ones do."""
        return False

    @property
    def least_rows(self) -> int:
        """The fewest rows of a batch that it can be trained on."""
        return 1

    def summary(
        self,
        model: Model,
        params: Params,
        outputs: Outputs,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """What `whole_sums` needs of each row of a corrupted microbatch: small floating point
        arrays [B, ...], such as one vector a row."""
        return {}

    def whole_sums(
        self,
        model: Model,
        params: Params,
        summaries: Mapping[str, jax.Array],
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """Sums over the whole corrupted batch, of the summaries of all its rows, in the order of
        the batch's. In evaluation the batch is that of the validation."""
        return Sums({}, {})

    def finish(self, metric: str, total: Any, weight: Any) -> dict[str, float]:
        """The numbers that people read of a metric's sum and weight, on the host, once."""
        value = float(total) / float(weight) if weight else math.nan
        return {metric.replace("nll/", "loss/"): value}

    def alarms(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """What is told after a validation with these numbers, because something went wrong."""
        return ()

    def is_lower_better(self, number: str) -> bool:
        """Whether less is better of a number of its validation."""
        return number.split("/")[0] in LOWER_IS_BETTER

    def predict(
        self, model: Model, params: Params, outputs: Outputs, batch: Batch
    ) -> dict[str, jax.Array]:
        """Arrays [B, ...] of one batch, in evaluation; none where nothing is predicted."""
        return {}

    def details(self, predictions: Mapping[str, Any], references: Any) -> dict[str, Any]:
        """Tables for the report of a split's predictions; see `tasks.base.Task`."""
        return {}

    def baseline_scores(self, train: Any, references: Any) -> dict[str, float]:
        """The scores of predictions that look at no text."""
        return {}

    def scores(self, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
        """Numbers over a whole split's predictions, on the host."""
        return {}


def total_loss(
    objective: Objective, losses: Mapping, weights: Mapping, step: jax.Array | int = 0
) -> jax.Array:
    """The number that is minimised at a step; a loss without any weight counts as zero.

    Args:
      losses: sums by name; those that are not there are added elsewhere.
    """
    terms = [
        factor_at(loss.factor, step, jnp.interp) * losses[name] / jnp.maximum(weights[name], 1e-9)
        for name, loss in objective.losses.items()
        if name in losses
    ]
    return sum(terms[1:], terms[0]) if terms else jnp.zeros([])


def all_sums(
    objective: Objective,
    model: Model,
    params: Params,
    outputs: Outputs,
    batch: Batch,
    key: jax.Array | None = None,
) -> Sums:
    """The sums over one batch that is a whole by itself."""
    made = objective.sums(model, params, outputs, batch, key)
    if objective.whole_batch:
        summaries = objective.summary(model, params, outputs, batch, key)
        more = objective.whole_sums(model, params, summaries, batch, key)
        made = Sums({**made.losses, **more.losses}, {**made.metrics, **more.metrics})
    if objective.losses.keys() != made.losses.keys():
        raise UserError(
            "an objective's sums are not those of its losses",
            where=f"objective {objective.name}: losses, sums",
            expected=", ".join(sorted(objective.losses)),
            got=", ".join(sorted(made.losses)) or "none",
        )
    return made
