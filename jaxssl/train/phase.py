"""The phases of a run: in each, one set of parameters is trained by one compiled step.

Most runs have a single phase. Gradual unfreezing has several: at the start of one, more parameters
move from the frozen ones into the state, which grows by their moments.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

from jaxssl.core.names import join, split
from jaxssl.core.types import Params
from jaxssl.core.widen import widen
from jaxssl.train.settings import Parts, Stage, TrainConfig
from jaxssl.train.state import Choice, State, laid_out, layout, make_first_state
from jaxssl.train.step import jit_train_step, make_train_step

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Phase:
    """One stage, ready to be trained.

    Attributes:
      is_kept: which of the frozen parameters the state holds, since no base does.
      abstract: the state's shapes and shardings.
      step: the jitted step (state, batch, frozen, anchors) -> (state, metrics).
    """

    stage: Stage
    is_kept: Choice
    abstract: State
    step: Callable[..., Any]


class Phases:
    """A run's phases by step; each is made when it is first asked for.

    To be used under the run's mesh.
    """

    def __init__(self, parts: Parts, train: TrainConfig):
        self._parts, self._train = parts, train
        self._made: dict[int, Phase] = {}

    def at(self, step: int) -> Phase:
        """The phase that trains batch number `step`, counted from 0."""
        stages = self._parts.stages
        index = max(i for i, stage in enumerate(stages) if stage.first_step <= step)
        if index not in self._made:
            self._made[index] = make_phase(self._parts, self._train, stages[index])
        return self._made[index]

    def of_checkpoint(self, step: int) -> Phase:
        """The phase of the state after `step` batches: it grows only before the next batch."""
        return self.at(max(step - 1, 0))

    def begins_at(self, step: int) -> bool:
        """Whether batch `step` is the first of a later phase."""
        return any(stage.first_step == step > 0 for stage in self._parts.stages)


def make_phase(parts: Parts, train: TrainConfig, stage: Stage) -> Phase:
    """Makes the step of a stage (it is compiled when it first runs) and the shapes of its state."""
    num_layers = parts.model.config.num_layers
    is_kept = lambda path: not parts.start.is_verbatim(path, num_layers)
    has_ema = train.ema is not None
    begin = make_first_state(parts.optimizer, stage.is_trained, is_kept, has_ema)
    abstract = laid_out(jax.eval_shape(begin, parts.model.abstract()), parts.mesh)
    step = make_train_step(
        parts.model,
        parts.objective,
        parts.optimizer,
        parts.vocabulary,
        seed=train.seed,
        microbatches=train.accumulation,
        regularization=parts.regularization,
        ema=train.ema,
    )
    return Phase(stage, is_kept, abstract, jit_train_step(step, abstract, parts.mesh))


def thaw(parts: Parts, phase: Phase, state: State, frozen: Params) -> tuple[State, Params]:
    """The state of the phase before as that of `phase`, and what stays frozen beside it.

    Values stay as they are, and so do the moments there are, with their counts. New parameters get
    new moments with a count of their own (see `optim.groups`).
    """
    params, others = split(join(state.params, join(state.kept, frozen)), phase.stage.is_trained)
    kept, beside = split(others, phase.is_kept)

    def grow(state: State, params: Params, kept: Params) -> State:
        ema = join(jax.tree.map(widen, params), state.ema) if state.ema else {}
        fresh = parts.optimizer.init(params)
        opt_state = carried_over(state.opt_state, fresh)
        return dataclasses.replace(state, params=params, opt_state=opt_state, kept=kept, ema=ema)

    grown = jax.jit(grow, out_shardings=layout(phase.abstract))(state, params, kept)
    return grown, beside


def carried_over(old: Any, new: T) -> T:
    """`new` with each leaf that `old` has at the same path."""
    known = dict(jax.tree.leaves_with_path(old))
    return jax.tree.map_with_path(lambda path, leaf: known.get(path, leaf), new)
