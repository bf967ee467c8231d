"""The validations of a run: their numbers, and what these decide."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.keys import numbered_seed
from jaxssl.core.types import Batch, Params
from jaxssl.models.layers import unbox
from jaxssl.parallel.mesh import replicated
from jaxssl.program.program import Program, Stream
from jaxssl.program.step import make_eval_step
from jaxssl.train import metrics
from jaxssl.train.evaluation import DataPass, EvaluationConfig, evaluate
from jaxssl.train.feeds import Feed, Feeds
from jaxssl.train.settings import Settings

T = TypeVar("T")


class Validation:
    """Validates when it is due, and knows which validation was the best.

    Attributes:
      values: the last validation's numbers; of several streams, each begins with its stream's name.
      selections: what each validation counts for, in order; lower is better.
    """

    def __init__(self, program: Program, feeds: Feeds, settings: Settings, selections: list[float]):
        self._program, self._feeds, self._settings = program, feeds, settings
        self._eval_steps = {
            stream.name: eval_step(program, number)
            for number, stream in enumerate(program.streams)
            if stream.name in feeds.validated
        }
        self.values: dict[str, float] = {}
        self.selections = selections
        self._step = -1

    def is_due(self, step: int) -> bool:
        """Whether the run validates after `step`."""
        every = self._settings.evaluation.every
        return bool(self._eval_steps) and (
            step == self._settings.train.steps or (every > 0 and step % every == 0)
        )

    def validate(self, step: int, params: Params) -> dict[str, float]:
        """The numbers after `step`. Every process must call this together."""
        self.values = {}
        for stream in self._program.streams:
            if stream.name in self._eval_steps:
                self.values |= prefixed(stream.name, self._of_stream(stream, params))
        self._step = step
        self.selections.append(self._selection())
        return self.values

    def _of_stream(self, stream: Stream, params: Params) -> dict[str, float]:
        feed = self._feeds.streams[stream.name]
        assert feed.validation is not None
        rows = DataPass(
            data=feed.validation,
            mesh=self._program.mesh,
            batch_size=feed.config.batch_size,
            limit=self._settings.evaluation.batches,
        )
        step = self._eval_steps[stream.name]
        return evaluate(step, stream.objective, params, rows, feed.tokens_per_byte).values

    @property
    def alarms(self) -> list[str]:
        """What went wrong by the last validation's numbers."""
        found = []
        for stream in self._program.streams:
            lead = f"{stream.name}/" if stream.name else ""
            own = {key.removeprefix(lead): x for key, x in self.values.items()}
            found += [lead + text for text in stream.objective.alarms(own)]
        return found

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
        name = self._feeds.metric
        if name not in self.values:
            raise _no_such_score(name, self.values)
        is_lower_better = self._program.is_lower_better(name)
        return self.values[name] if is_lower_better else -self.values[name]


def eval_step(program: Program, number: int) -> Callable[[Params, Batch], dict[str, Any]]:
    """The jitted evaluation step of a stream; it corrupts as training does."""
    seed, objective = numbered_seed(program.seed, number), program.streams[number].objective
    step = make_eval_step(program.model, objective, program.vocabulary, seed=seed)
    return jax.jit(step, out_shardings=replicated(program.mesh))


def prefixed(stream: str, values: Mapping[str, T]) -> dict[str, T]:
    """Numbers of a stream, which begin with its name where it has one."""
    return {f"{stream}/{key}" if stream else key: value for key, value in values.items()}


def check_best_by(program: Program, feeds: Feeds, evaluation: EvaluationConfig) -> None:
    """Refuses a score that no validation will have, before anything is trained.

    Raises:
      UserError: names those there are.
    """
    name = evaluation.best_by
    if name == "auto" or (name == "loss" and "" in feeds.streams) or not feeds.validated:
        return
    known = scores_of(program, feeds)
    if name not in known:
        raise _no_such_score(name, known)


def scores_of(program: Program, feeds: Feeds) -> list[str]:
    """The names of the numbers that a validation gives, found without computing any.

    Those of a task are what it gives predictions that look at no text.
    """
    names: list[str] = []
    for stream in program.streams:
        feed = feeds.streams[stream.name]
        if feed.validation is not None:
            names += prefixed(stream.name, dict.fromkeys(_scores_of(program, stream, feed), 0.0))
    return names


def _scores_of(program: Program, stream: Stream, feed: Feed) -> list[str]:
    data, objective = feed.validation, stream.objective
    assert data is not None
    row = next(data.eval_batches(1, np.arange(1), 1))
    step = make_eval_step(program.model, objective, program.vocabulary, seed=0)
    sums = jax.eval_shape(step, unbox(program.model.abstract()), row)
    ones = jax.tree.map(lambda x: np.ones(x.shape), sums["metrics"])
    means = metrics.finished(objective, ones)
    language = metrics.language_numbers(objective, means, feed.tokens_per_byte)
    references = data.references(np.arange(data.num_rows))
    trained = feed.train.references(np.arange(feed.train.num_rows))
    return ["loss", *means, *language, *objective.baseline_scores(trained, references)]


def _no_such_score(name: str, known: Iterable[str]) -> UserError:
    return UserError(
        "there is no such score to choose by",
        where="evaluation.best_by",
        expected="one of " + ", ".join(known),
        got=name,
        fix=did_you_mean(name, known),
    )
