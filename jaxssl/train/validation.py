"""The validations of a run: their numbers, and what these decide."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.types import Params
from jaxssl.models.layers import unbox
from jaxssl.objectives.names import is_lower_better
from jaxssl.parallel.mesh import replicated
from jaxssl.train import metrics
from jaxssl.train.evaluation import EvaluationConfig, evaluate
from jaxssl.train.settings import Parts, Settings
from jaxssl.train.step import make_eval_step


class Validation:
    """Validates when it is due, and knows which validation was the best.

    Attributes:
      values: the last validation's numbers.
      selections: what each validation counts for, in order; lower is better.
    """

    def __init__(self, parts: Parts, settings: Settings, selections: list[float]):
        self._parts, self._settings = parts, settings
        step = make_eval_step(
            parts.model, parts.objective, parts.vocabulary, seed=settings.train.seed
        )
        self._eval_step = jax.jit(step, out_shardings=replicated(parts.mesh))
        self.values: dict[str, float] = {}
        self.selections = selections
        self._step = -1

    def is_due(self, step: int) -> bool:
        """Whether the run validates after `step`."""
        every = self._settings.evaluation.every
        return self._parts.validation_data is not None and (
            step == self._settings.train.steps or (every > 0 and step % every == 0)
        )

    def validate(self, step: int, params: Params) -> dict[str, float]:
        """The numbers after `step`. Every process must call this together."""
        data = self._parts.validation_data
        assert data is not None
        self.values = evaluate(
            self._eval_step,
            self._parts.objective,
            params,
            data,
            self._parts.mesh,
            batch_size=self._settings.data.batch_size,
            limit=self._settings.evaluation.batches,
            tokens_per_byte=self._parts.tokens_per_byte,
            show=False,
        ).values
        self._step = step
        self.selections.append(self._selection())
        return self.values

    @property
    def is_best(self) -> bool:
        """Whether the last validation is as good as any before it."""
        return bool(self.selections[-1] <= np.nanmin([np.inf, *self.selections]))

    @property
    def stops_early(self) -> bool:
        """Whether the validations so far end the run."""
        stopping = self._settings.evaluation.early_stopping
        return stopping is not None and stopping.is_over(self.selections)

    def selection_at(self, step: int) -> float | None:
        """What the validation after `step` counts for; None where the last was another."""
        return self.selections[-1] if self._step == step else None

    def go_back(self, selections: list[float]) -> None:
        """Forgets the validations after a checkpoint that knew these."""
        self.selections, self._step = selections, -1

    def _selection(self) -> float:
        name = self._settings.evaluation.best_by
        name = self._parts.metric if name == "auto" else name
        if name not in self.values:
            raise _no_such_score(name, self.values)
        return self.values[name] if is_lower_better(name) else -self.values[name]


def check_best_by(parts: Parts, evaluation: EvaluationConfig) -> None:
    """Refuses a score that no validation will have, before anything is trained.

    Raises:
      UserError: names those there are.
    """
    name = evaluation.best_by
    if name in ("auto", "loss") or parts.validation_data is None:
        return
    known = scores_of(parts)
    if name not in known:
        raise _no_such_score(name, known)


def scores_of(parts: Parts) -> list[str]:
    """The names of the numbers that a validation gives, found without computing any.

    Those of a task are what it gives predictions that look at no text.
    """
    data, objective = parts.validation_data, parts.objective
    assert data is not None
    row = next(data.eval_batches(1, np.arange(1), 1))
    step = make_eval_step(parts.model, objective, parts.vocabulary, seed=0)
    sums = jax.eval_shape(step, unbox(parts.model.abstract()), row)
    means = metrics.ratios({name: (1.0, 1.0) for name in sums["metrics"]})
    names = ["loss", *means, *metrics.language_numbers(means, parts.tokens_per_byte)]
    task: Any = objective
    if hasattr(task, "scores"):
        references = data.references(np.arange(data.num_rows))
        trained = parts.train_data.references(np.arange(parts.train_data.num_rows))
        names += task.scores(task.blind(trained, references), references)
    return names


def _no_such_score(name: str, known: Iterable[str]) -> UserError:
    return UserError(
        "there is no such score to choose by",
        where="evaluation.best_by",
        expected="one of " + ", ".join(known),
        got=name,
        fix=did_you_mean(name, known),
    )
