"""What learns: the state, the parameters beside it, and the step compiled for them."""

import dataclasses
from typing import Any

import jax

from jaxssl.checkpoint.manager import CheckpointManager, as_tree
from jaxssl.core.keys import init_key
from jaxssl.core.names import flatten, join, split
from jaxssl.core.types import Batch, Params
from jaxssl.ops.fingerprint import fingerprint
from jaxssl.train.phase import Phase, Phases, thaw
from jaxssl.train.settings import Parts, TrainConfig
from jaxssl.train.state import Choice, State, first_state, laid_out, layout
from jaxssl.transfer.start import first_params, restored_moments


class Learner:
    """A run's parameters, of which the current phase trains some. To be used under its mesh.

    Attributes:
      state: what checkpoints hold.
      frozen: parameters that the base holds and the state does not.
      anchors: what trained parameters started from, where a regulariser needs it.
    """

    state: State
    frozen: Params
    anchors: Params

    def __init__(
        self, parts: Parts, train: TrainConfig, checkpoints: CheckpointManager, phases: Phases
    ):
        self._parts, self._train, self._checkpoints = parts, train, checkpoints
        self._phases = phases
        self._phase = self._phases.at(0)

    def begin(self) -> None:
        """Takes the state before the first step: stored parameters by the ledger, others fresh."""
        parts, self._phase = self._parts, self._phases.at(0)
        abstract = self._phase.abstract
        own = {**flatten(abstract.params), **flatten(abstract.kept)}
        first = self._first_params(own.__contains__)
        params, kept = split(first, flatten(abstract.params).__contains__)
        has_ema = self._train.ema is not None
        born = lambda params, kept: first_state(params, kept, parts.optimizer, has_ema)
        state = jax.jit(born, out_shardings=layout(abstract))(params, kept)
        if parts.start.moments is not None:
            moments = restored_moments(parts.start.moments, state.opt_state)
            state = dataclasses.replace(state, opt_state=moments)
        self.state = state
        self._take_constants()

    def restore(self, step: int) -> None:
        """Takes the state of a checkpoint."""
        self._phase = self._phases.of_checkpoint(step)
        tree = self._checkpoints.restore(step, as_tree(self._phase.abstract))
        self.state = State(**tree)
        self._take_constants()

    def train(self, step: int, batch: Batch) -> dict[str, Any]:
        """Trains on batch number `step` and returns the step's metrics, still on the device.

        The first batch of a phase must not be given before every earlier step is finished.
        """
        phase = self._phases.at(step)
        if phase is not self._phase:
            self._enter(phase)
        self.state, metrics = self._phase.step(self.state, batch, self.frozen, self.anchors)
        return metrics

    def begins_phase(self, step: int) -> bool:
        """Whether more parameters are trained from batch `step` on."""
        return self._phases.begins_at(step)

    @property
    def params(self) -> Params:
        """All the model's parameters, as they are trained."""
        return join(self.state.params, join(self.state.kept, self.frozen))

    @property
    def evaluated(self) -> Params:
        """All the model's parameters, the trained ones averaged if the run averages."""
        return join(self.params, self._averages())

    @property
    def num_trained(self) -> int:
        """How many numbers the current phase trains."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._phase.abstract.params))

    def fingerprints(self) -> dict[str, int]:
        """{path: number} of the parameters that no stage trains; equal numbers mean equal bits."""
        last = self._parts.stages[-1]
        never, _ = split(self.params, lambda path: not last.is_trained(path))
        made = jax.jit(lambda tree: jax.tree.map(fingerprint, tree))(never)
        return {path: int(value) for path, value in flatten(jax.device_get(made)).items()}

    def _averages(self) -> Params:
        cast = lambda mean, leaf: mean.astype(leaf.dtype)
        return jax.tree.map(cast, self.state.ema, self.state.params) if self.state.ema else {}

    def _enter(self, phase: Phase) -> None:
        before = flatten(self._phase.abstract.params)
        thawed = lambda path: phase.stage.is_trained(path) and path not in before
        self.anchors = join(self.anchors, self._anchored(split(self.params, thawed)[0]))
        self.state, self.frozen = thaw(self._parts, phase, self.state, self.frozen)
        self._phase = phase

    def _take_constants(self) -> None:
        """Reads what the step is given beside the state: the base's frozen parameters, anchors."""
        abstract = self._phase.abstract
        trained = flatten(abstract.params)
        own = {**trained, **flatten(abstract.kept)}
        is_beside = lambda path: path not in own
        beside = any(map(is_beside, flatten(self._parts.model.abstract())))
        self.frozen = self._first_params(is_beside) if beside else {}
        needed = lambda path: path in trained and self._has_source(path)
        is_needed = self._parts.regularization.needs_anchors
        self.anchors = self._first_params(needed) if is_needed else {}

    def _anchored(self, params: Params) -> Params:
        """Those of `params` that were restored, copied: the state is donated to the step."""
        if not self._parts.regularization.needs_anchors:
            return {}
        return jax.tree.map(lambda x: x.copy(), split(params, self._has_source)[0])

    def _has_source(self, path: str) -> bool:
        return self._parts.start.has_source(path, self._parts.model.config.num_layers)

    def _first_params(self, wanted: Choice) -> Params:
        parts = self._parts
        key = init_key(self._train.seed)
        abstract = laid_out(parts.model.abstract(), parts.mesh)
        return first_params(parts.start, parts.model, key, abstract, wanted)
