"""A weighted sum of objectives is an objective.

Each term corrupts the batch as it was read, so that one does not see what another did: a task
beside a masked language model is trained and scored on clean text. Terms that read the same inputs
and have no forward pass of their own share one.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax

from jaxssl.core.bounds import check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.keys import numbered_seed
from jaxssl.core.ramp import Factor, Ramp, times
from jaxssl.core.types import Batch, Params, Vocabulary
from jaxssl.models.heads import Head
from jaxssl.models.model import Model, ModelConfig
from jaxssl.models.network import Network
from jaxssl.objectives.base import Loss, Objective, Sums
from jaxssl.objectives.union import unite_heads, unite_networks

INPUTS = frozenset(("tokens", "segment_ids", "positions", "token_types"))
"""The entries of a batch that a model reads: a term that changes one has inputs of its own."""
TERM = 1 << 22
"""What a later term's dropout key is folded with, and its number."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One objective and its factor."""

    objective: Objective
    """The objective, or a task."""
    weight: Factor = 1.0
    """Its factor in the total loss: a number, or {points: [[step, value], ...]}."""
    name: str | None = None
    """What its losses, metrics and entries in a batch are called; null is the objective's name.
    Needed where two terms are of one kind."""

    def __post_init__(self):
        if not isinstance(self.weight, Ramp):
            check_at_least(0, self, "weight")
        if self.name is not None and not re.fullmatch(r"[A-Za-z][\w-]*", self.name):
            raise UserError(
                "not a name of a term",
                where="name",
                expected="letters, digits, - and _, a letter first",
                got=repr(self.name),
            )
        if isinstance(self.objective, Combine):
            raise UserError(
                "a combination in a combination",
                where="objective.name",
                expected="an objective or a task",
                got=self.objective.name,
                fix="list its terms here, each with the product of the weights",
            )


@dataclass(frozen=True, kw_only=True)
class Combine(Objective):
    """A weighted sum; each term reads clean inputs, changed by itself alone."""

    name: Literal["combine"] = "combine"
    """The objective."""
    terms: tuple[Term, ...]
    """The objectives."""

    def __post_init__(self):
        names = list(self.by_name)
        if not names or len(names) < len(self.terms):
            raise UserError(
                "the terms of a combination need names of their own, and there must be one",
                where="terms",
                expected="each objective once, or a name for each",
                got=[term.name or term.objective.name for term in self.terms],
                fix="give one of them a name, such as {name: second, objective: ...}",
            )
        losses = [_labelled(term, loss) for term in self.terms for loss in term.objective.losses]
        twice = sorted({loss for loss in losses if losses.count(loss) > 1})
        if twice:
            raise UserError(
                "two terms have a loss of one name",
                where="terms",
                expected="losses of different names",
                got=", ".join(twice),
                fix="give one of the terms a name, such as {name: second, objective: ...}",
            )
        unite_heads(head for term in self.terms for head in term.objective.heads)

    @property
    def by_name(self) -> dict[str, Term]:
        """The terms by the names of their entries in a batch."""
        return {term.name or term.objective.name: term for term in self.terms}

    @property
    def losses(self) -> Mapping[str, Loss]:
        """Those of the terms, each by its term's factor."""
        return {
            _labelled(term, name): dataclasses.replace(loss, factor=times(term.weight, loss.factor))
            for term in self.terms
            for name, loss in term.objective.losses.items()
        }

    @property
    def heads(self) -> tuple[Head, ...]:
        """All terms' heads."""
        return unite_heads(head for term in self.terms for head in term.objective.heads)

    def networks(self, model: ModelConfig) -> Mapping[str, Network]:
        """All terms' networks."""
        return unite_networks(term.objective.networks(model) for term in self.terms)

    @property
    def named_tasks(self) -> Mapping[str, Any]:
        """The terms with labels."""
        named = self.by_name.items()
        return {name: term.objective for name, term in named if term.objective.named_tasks}

    @property
    def metric(self) -> str:
        """That of the first task, if there is one, else the loss."""
        for term in self.terms:
            if term.objective.tasks:
                return _labelled(term, term.objective.metric)
        return "loss"

    @property
    def own_forward(self) -> bool:
        """Its terms each have what they need."""
        return True

    def keeps_pooler(self, model: ModelConfig) -> bool:
        """Whether a term does."""
        return any(term.objective.keeps_pooler(model) for term in self.terms)

    def learn_labels(self, train: Any) -> "Combine":
        """Each term with what it needs to know."""
        learnt = [
            dataclasses.replace(term, objective=term.objective.learn_labels(train))
            for term in self.terms
        ]
        return dataclasses.replace(self, terms=tuple(learnt))

    def check(self, model: ModelConfig, vocabulary: Vocabulary) -> None:
        """What each term refuses."""
        for term in self.terms:
            term.objective.check(model, vocabulary)

    def check_networks(self, model: ModelConfig, networks: Mapping[str, ModelConfig]) -> None:
        """What each term refuses."""
        for term in self.terms:
            term.objective.check_networks(model, networks)

    def check_rows(self, rows: Batch) -> None:
        """What each term refuses."""
        for name, term in self.by_name.items():
            term.objective.check_rows(self._seen_by(name, rows))

    def raw_length(self, length: int) -> int:
        """That of all terms.

        Raises:
          UserError: they differ, and the terms read the same rows.
        """
        found = {name: term.objective.raw_length(length) for name, term in self.by_name.items()}
        if len(set(found.values())) > 1:
            raise UserError(
                "the terms want to read rows of different lengths",
                where="objective.terms",
                expected="one length for all terms of one stream",
                got=", ".join(f"{name}: {tokens} tokens" for name, tokens in found.items()),
                fix="put them into streams of their own",
            )
        return next(iter(found.values()))

    @property
    def reads_marks(self) -> bool:
        """Whether a term does."""
        return any(term.objective.reads_marks for term in self.terms)

    def corrupt(self, batch: Batch, seed: int, vocabulary: Vocabulary) -> dict[str, Any]:
        """`TERM/ENTRY` for each entry that a term adds or changes."""
        entries = {}
        for number, (name, term) in enumerate(self.by_name.items()):
            seen = self._seen_by(name, batch)
            changes = term.objective.corrupt(seen, numbered_seed(seed, number), vocabulary)
            entries |= {f"{name}/{entry}": value for entry, value in changes.items()}
        return entries

    def _seen_by(self, name: str, batch: Batch, training: bool = False) -> dict[str, Any]:
        """The batch as a term sees it: as it was read, with its own changes."""
        source = self._source(name, batch, training)
        others = tuple(f"{other}/" for other in self.by_name)
        seen = {entry: x for entry, x in batch.items() if not entry.startswith(others)}
        if source is not None:
            changed = {entry: batch.get(f"{source}/{entry}") for entry in INPUTS}
            seen |= {entry: x for entry, x in changed.items() if x is not None}
        seen |= _own(name, batch)
        if self.whole_batch and not self.by_name[name].objective.whole_batch:
            seen |= _without_fillers(seen)
        return seen

    def _source(self, name: str, batch: Batch, training: bool) -> str | None:
        """The term whose inputs a term reads; None where they are as they were read."""
        changers = [
            other for other in self.by_name if any(f"{other}/{entry}" in batch for entry in INPUTS)
        ]
        if name in changers:
            return name
        follows = self.by_name[name].objective.sees_corrupted(training)
        return changers[-1] if changers and follows else None

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """All terms' weights."""
        return {
            _labelled(term, loss): weight
            for name, term in self.by_name.items()
            for loss, weight in term.objective.weights(self._seen_by(name, batch)).items()
        }

    def forward(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> dict[str, Any]:
        """{term: its outputs}; terms that read the same inputs share a pass, if they may."""
        made, shared = {}, {}
        for number, (name, term) in enumerate(self.by_name.items()):
            source = self._source(name, batch, key is not None), term.objective.whole_batch
            if not term.objective.own_forward and source in shared:
                made[name] = shared[source]
                continue
            seen = self._seen_by(name, batch, key is not None)
            own_key = _numbered_key(key, number)
            made[name] = term.objective.forward(model, params, seen, own_key)
            if not term.objective.own_forward:
                shared[source] = made[name]
        return made

    def sums(
        self,
        model: Model,
        params: Params,
        outputs: Any,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """All terms' sums; metrics are called `TERM/METRIC`."""
        losses, metrics = {}, {}
        for number, (name, term) in enumerate(self.by_name.items()):
            seen = self._seen_by(name, batch, key is not None)
            own_key = _numbered_key(key, number)
            part = term.objective.sums(model, params, outputs[name], seen, own_key)
            losses |= {_labelled(term, loss): x for loss, x in part.losses.items()}
            metrics |= {f"{name}/{metric}": x for metric, x in part.metrics.items()}
        return Sums(losses, metrics)

    @property
    def whole_batch(self) -> bool:
        """Whether a term does."""
        return any(term.objective.whole_batch for term in self.terms)

    @property
    def least_rows(self) -> int:
        """The most that a term needs."""
        return max(term.objective.least_rows for term in self.terms)

    def summary(
        self,
        model: Model,
        params: Params,
        outputs: Any,
        batch: Batch,
        key: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """`TERM/ARRAY` for each array of a term."""
        made = {}
        for number, (name, term) in enumerate(self.by_name.items()):
            seen = self._seen_by(name, batch, key is not None)
            own_key = _numbered_key(key, number)
            part = term.objective.summary(model, params, outputs[name], seen, own_key)
            made |= {f"{name}/{array}": x for array, x in part.items()}
        return made

    def whole_sums(
        self,
        model: Model,
        params: Params,
        summaries: Mapping[str, jax.Array],
        batch: Batch,
        key: jax.Array | None = None,
    ) -> Sums:
        """All terms' sums over the whole batch."""
        losses, metrics = {}, {}
        for number, (name, term) in enumerate(self.by_name.items()):
            seen, own = self._seen_by(name, batch, key is not None), _own(name, summaries)
            own_key = _numbered_key(key, number)
            part = term.objective.whole_sums(model, params, own, seen, own_key)
            losses |= {_labelled(term, loss): x for loss, x in part.losses.items()}
            metrics |= {f"{name}/{metric}": x for metric, x in part.metrics.items()}
        return Sums(losses, metrics)

    def finish(self, metric: str, total: Any, weight: Any) -> dict[str, float]:
        """The numbers of the term that the metric is of."""
        name, _, own = metric.partition("/")
        term = self.by_name[name]
        found = term.objective.finish(own, total, weight)
        return {_labelled(term, number): value for number, value in found.items()}

    def alarms(self, values: Mapping[str, float]) -> tuple[str, ...]:
        """Those of the terms."""
        found = []
        for term in self.terms:
            lead = "" if term.name is None else f"{term.name}/"
            found += term.objective.alarms({key.removeprefix(lead): x for key, x in values.items()})
        return tuple(found)

    def is_lower_better(self, number: str) -> bool:
        """As the term has it that the number is of."""
        for term in self.terms:
            if term.name is not None and number.startswith(f"{term.name}/"):
                return term.objective.is_lower_better(number.removeprefix(f"{term.name}/"))
        unnamed = (term.objective for term in self.terms if term.name is None)
        return any(each.is_lower_better(number) for each in unnamed) or super().is_lower_better(
            number
        )

    def predict(
        self, model: Model, params: Params, outputs: Any, batch: Batch
    ) -> dict[str, jax.Array]:
        """`TERM/ARRAY` for each array of a term that predicts."""
        made = {}
        for name, term in self.by_name.items():
            seen = self._seen_by(name, batch)
            part = term.objective.predict(model, params, outputs[name], seen)
            made |= {f"{name}/{array}": x for array, x in part.items()}
        return made

    def details(self, predictions: Mapping[str, Any], references: Any) -> dict[str, Any]:
        """Those of the only term with labels; of several, none."""
        if len(self.named_tasks) != 1:
            return {}
        ((name, task),) = self.named_tasks.items()
        return task.details(_own(name, predictions), references[name])

    def baseline_scores(self, train: Any, references: Any) -> dict[str, float]:
        """Those of the terms with labels."""
        return {
            _labelled(term, score): value
            for name, term in self.by_name.items()
            if term.objective.tasks
            for score, value in term.objective.baseline_scores(
                train[name], references[name]
            ).items()
        }

    def scores(self, predictions: Mapping[str, Any], references: Any) -> dict[str, float]:
        """Those of the terms with labels; `references` are {term: its own}."""
        found = {}
        for name, term in self.by_name.items():
            if not term.objective.tasks:
                continue
            scores = term.objective.scores(_own(name, predictions), references[name])
            found |= {_labelled(term, score): value for score, value in scores.items()}
        return found


def _without_fillers(batch: Batch) -> dict[str, Any]:
    """Rows that are there for others to be told from (`example_weights` 0) as padding, for a term
    that looks at each row alone."""
    if "example_weights" not in batch:
        return {}
    counts = batch["example_weights"] > 0
    blanked = [entry for entry in ("segment_ids", "label_weights") if entry in batch]
    return {
        entry: batch[entry] * counts.reshape(-1, *(1,) * (batch[entry].ndim - 1))
        for entry in blanked
    }


def _own(name: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """What begins with a term's name, without it."""
    lead = f"{name}/"
    return {key.removeprefix(lead): x for key, x in entries.items() if key.startswith(lead)}


def _labelled(term: Term, name: str) -> str:
    """A loss's or number's name outside: it begins with the term's, where that was given one."""
    return name if term.name is None else f"{term.name}/{name}"


def _numbered_key(key: jax.Array | None, number: int) -> jax.Array | None:
    """A term's own dropout key; the first keeps the step's."""
    return key if key is None or not number else jax.random.fold_in(key, TERM + number)
