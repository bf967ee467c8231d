"""What learns: the state, the parameters beside it, and the step compiled for them."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxssl.checkpoint.manager import CheckpointManager, as_tree
from jaxssl.core.names import flatten, join, split
from jaxssl.core.types import Batch, Params
from jaxssl.ops.codes import by_part
from jaxssl.ops.fingerprint import fingerprint
from jaxssl.program.phase import Phase, Phases, base_params, born, program_params, thaw
from jaxssl.program.program import Program
from jaxssl.program.state import State
from jaxssl.program.step import Constants


class Learner:
    """A run's parameters, of which the current phase trains some. To be used under its mesh.

    Attributes:
      state: what checkpoints hold.
      constants: parameters that the base holds and the state does not, and what trained parameters
        started from, where a regulariser needs it.
    """

    state: State
    constants: Constants

    def __init__(self, program: Program, checkpoints: CheckpointManager, phases: Phases):
        self._program, self._checkpoints = program, checkpoints
        self._phases, self._phase = phases, phases.at(0)

    def begin(self) -> None:
        """Takes the state before the first step: stored parameters by the ledger, others fresh."""
        self._phase = self._phases.at(0)
        self.state = born(self._phase)
        self._take_constants()

    def restore(self, step: int) -> None:
        """Takes the state of a checkpoint."""
        self._phase = self._phases.of_checkpoint(step)
        tree = self._checkpoints.restore(step, as_tree(self._phase.abstract))
        self.state = State(**tree)
        self._take_constants()

    def train(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Any]:
        """Trains on the batches that step `step` takes, by stream, and returns the step's metrics,
        still on the device.

        The first batch of a phase must not be given before every earlier step is finished.
        """
        phase = self._phases.at(step)
        if phase is not self._phase:
            self._enter(phase)
        train = self._phase.step(tuple(batches))
        self.state, metrics = train(self.state, batches, self.constants)
        return metrics

    def begins_phase(self, step: int) -> bool:
        """Whether more parameters are trained from batch `step` on."""
        return self._phases.begins_at(step)

    @property
    def params(self) -> Params:
        """All the model's parameters, as they are trained."""
        return join(self.state.params, join(self.state.kept, self.constants.frozen))

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
        last = self._program.stages[-1]
        never, _ = split(self.params, lambda path: not last.is_trained(path))
        bits = {
            f"{path}{part}": x for path, of in flatten(never).items() for part, x in by_part(of)
        }
        made = jax.jit(lambda tree: jax.tree.map(fingerprint, tree))(bits)
        return {path: int(value) for path, value in jax.device_get(made).items()}

    def _averages(self) -> Params:

        def cast(mean, leaf):
            return mean.astype(leaf.dtype)

        return jax.tree.map(cast, self.state.ema, self.state.params) if self.state.ema else {}

    def _enter(self, phase: Phase) -> None:
        before = flatten(self._phase.abstract.params)

        def thawed(path):
            return phase.stage.is_trained(path) and path not in before

        anchors = join(self.constants.anchors, self._anchored(split(self.params, thawed)[0]))
        self.state, frozen = thaw(phase, self.state, self.constants.frozen)
        self.constants = Constants(frozen, anchors)
        self._phase = phase

    def _take_constants(self) -> None:
        """Reads what the step is given beside the state: the base's frozen parameters, anchors."""
        anchored = flatten(self._phase.constants.anchors)
        anchors = program_params(self._program, anchored.__contains__) if anchored else {}
        self.constants = Constants(base_params(self._phase), anchors)

    def _anchored(self, params: Params) -> Params:
        """Those of `params` that were restored, copied: the state is donated to the step."""
        if not self._program.regularization.needs_anchors:
            return {}
        return jax.tree.map(lambda x: x.copy(), split(params, self._program.start.has_source)[0])
