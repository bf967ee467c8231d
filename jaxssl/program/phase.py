"""The phases of a run: in each, one set of parameters is trained.

Most runs have a single phase. Gradual unfreezing has several: at the start of one, more parameters
move from the frozen ones into the state, which grows by their moments.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax

from jaxssl.core.names import flatten, join, split, unflatten
from jaxssl.core.types import Params
from jaxssl.core.upcast import upcast
from jaxssl.ops.codes import Coded
from jaxssl.program.coded import abstract_codes, encoded, in_codes
from jaxssl.program.program import Program, Stage
from jaxssl.program.state import (
    Choice,
    State,
    abstract_params,
    first_state,
    laid_out,
    layout,
    on_hosts,
)
from jaxssl.program.step import Constants, jit_train_step, make_train_step
from jaxssl.transfer.start import first_params, restored_moments

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Phase:
    """One stage, ready to be trained.

    Attributes:
      is_kept: which of the frozen parameters the state holds, since no base does.
      abstract: the state's shapes and shardings.
      constants: those of what the step is given beside it. Of the base's frozen parameters, those
        that no later stage trains are in codes where the run asks for it.
    """

    program: Program
    stage: Stage
    is_kept: Choice
    abstract: State
    constants: Constants
    _steps: dict[tuple[str, ...], Callable[..., Any]] = dataclasses.field(default_factory=dict)

    def step(self, drawn: tuple[str, ...]) -> Callable[..., Any]:
        """The jitted step (state, {stream: batch}, constants) -> (state, metrics) of these
        streams; it is compiled when it first runs."""
        if drawn not in self._steps:
            step = make_train_step(self.program, drawn, self.program.is_reached(drawn))
            self._steps[drawn] = jit_train_step(
                step, self.abstract, self.program.mesh, self.program.compiler
            )
        return self._steps[drawn]


class Phases:
    """A run's phases by step; each is made when it is first asked for.

    To be used under the run's mesh.
    """

    def __init__(self, program: Program):
        self._program = program
        self._made: dict[int, Phase] = {}

    def at(self, step: int) -> Phase:
        """The phase that trains batch number `step`, counted from 0."""
        stages = self._program.stages
        index = max(i for i, stage in enumerate(stages) if stage.first_step <= step)
        if index not in self._made:
            self._made[index] = make_phase(self._program, stages[index])
        return self._made[index]

    def of_checkpoint(self, step: int) -> Phase:
        """The phase of the state after `step` batches: it grows only before the next batch."""
        return self.at(max(step - 1, 0))

    def begins_at(self, step: int) -> bool:
        """Whether batch `step` is the first of a later phase."""
        return any(stage.first_step == step > 0 for stage in self._program.stages)


def make_phase(program: Program, stage: Stage) -> Phase:
    """The shapes of a stage's state, and of what its steps are given beside it."""
    start = program.start

    def is_kept(path):
        return not start.is_verbatim(path)

    def begin(params: Params) -> State:
        trained, others = split(params, stage.is_trained)
        kept, _ = split(others, is_kept)
        return first_state(trained, kept, program.optimizer, program.ema is not None)

    boxed = abstract_params(program.model)
    abstract = laid_out(jax.eval_shape(begin, boxed), program.mesh)
    if program.is_offloaded:
        abstract = dataclasses.replace(abstract, opt_state=on_hosts(abstract.opt_state))
    leaves = flatten(laid_out(boxed, program.mesh))
    trained = flatten(abstract.params)
    beside = leaves.keys() - trained.keys() - flatten(abstract.kept).keys()
    anchored = {path for path in trained if start.has_source(path)}
    anchored = anchored if program.regularization.needs_anchors else set()

    def chosen(paths):
        return unflatten({path: x for path, x in leaves.items() if path in paths})

    frozen, form = chosen(beside), program.model.precision.frozen
    coded, others = split(frozen, in_codes(program))
    if form is not None and coded:
        of_coded, _ = split(boxed, flatten(coded).__contains__)
        frozen = join(others, abstract_codes(of_coded, form, program.mesh))
    return Phase(program, stage, is_kept, abstract, Constants(frozen, chosen(anchored)))


def born(phase: Phase) -> State:
    """The state before the first step: stored parameters by the ledger, others fresh, each shard
    on its own device. To be used under the mesh."""
    program, abstract = phase.program, phase.abstract
    own = {**flatten(abstract.params), **flatten(abstract.kept)}
    first = program_params(program, own.__contains__)
    params, kept = split(first, flatten(abstract.params).__contains__)

    def begin(params: Params, kept: Params) -> State:
        return first_state(params, kept, program.optimizer, program.ema is not None)

    state = jax.jit(begin, out_shardings=layout(abstract), donate_argnums=(0, 1))(params, kept)
    if program.start.moments is None:
        return state
    moments = restored_moments(program.start.moments, state.opt_state)
    return dataclasses.replace(state, opt_state=moments)


def program_params(program: Program, wanted: Choice) -> Params:
    """The parameters that a program starts from, those that are `wanted` by their paths."""
    abstract = laid_out(abstract_params(program.model), program.mesh)
    return first_params(program.start, program.model, program.seed, abstract, wanted)


def base_params(phase: Phase) -> Params:
    """The base's frozen parameters that a phase's steps are given."""
    program = phase.program
    frozen = flatten(phase.constants.frozen)
    coded = unflatten({path: x for path, x in frozen.items() if isinstance(x, Coded)})
    plain = frozen.keys() - flatten(coded).keys()
    read = functools.partial(program_params, program)
    made = read(plain.__contains__) if plain else {}
    if not coded:
        return made
    boxed, _ = split(abstract_params(program.model), flatten(coded).__contains__)
    return join(made, encoded(read, coded, boxed))


def thaw(phase: Phase, state: State, frozen: Params) -> tuple[State, Params]:
    """The state of the phase before as that of `phase`, and what stays frozen beside it.

    Values stay as they are, and so do the moments there are, with their counts. New parameters get
    new moments with a count of their own (see `optim.groups`).
    """
    optimizer = phase.program.optimizer
    params, others = split(join(state.params, join(state.kept, frozen)), phase.stage.is_trained)
    kept, beside = split(others, phase.is_kept)

    def grow(state: State, params: Params, kept: Params) -> State:
        ema = join(jax.tree.map(upcast, params), state.ema) if state.ema else {}
        opt_state = carried_over(state.opt_state, optimizer.init(params))
        return dataclasses.replace(state, params=params, opt_state=opt_state, kept=kept, ema=ema)

    grown = jax.jit(grow, out_shardings=layout(phase.abstract))(state, params, kept)
    return grown, beside


def carried_over(old: Any, new: T) -> T:
    """`new` with each leaf that `old` has at the same path."""
    known = dict(jax.tree.leaves_with_path(old))
    return jax.tree.map_with_path(lambda path, leaf: known.get(path, leaf), new)
