"""A window of steps traced by the JAX profiler."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxssl.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which steps to trace; look at them with TensorBoard's profile plugin or xprof."""

    start: int | None = None
    """First step traced; null traces none. Leave the compilation out: 10, say."""
    stop: int | None = None
    """First step not traced any more; null with a null start."""

    def __post_init__(self):
        if self.start is None and self.stop is None:
            return
        if self.start is None or self.stop is None or not 0 <= self.start < self.stop:
            raise UserError(
                "a profile needs a start before its stop",
                where="start, stop",
                expected="both, with 0 <= start < stop, or neither to trace nothing",
                got=(self.start, self.stop),
            )


class Profiler:
    """Starts and stops the trace as steps go by.

    Steps are dispatched ahead of the device. So the trace begins and ends when the device is done
    with what was dispatched, and holds the execution of just the steps it is asked for.

    Args:
      say: is told where the trace is, or that the run goes on behind the steps to be traced.
    """

    def __init__(self, config: ProfileConfig, directory: Path, say: Callable[[str], None] = print):
        self.config, self.directory, self._running = config, directory, False
        self._say = say

    def begin(self, step: int) -> None:
        """Call once, with the step that the run begins or goes on with."""
        if self.config.start is not None and step > self.config.start:
            self._say(
                f"no trace: the run goes on at step {step}, behind profile.start="
                f"{self.config.start}"
            )

    def before(self, step: int, state: Any) -> None:
        """Call before dispatching `step`, with the arrays that the step before returned."""
        if step == self.config.start and not self._running:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.directory))
            self._running = True
        elif step == self.config.stop:
            self.close(state)

    def close(self, state: Any = None) -> None:
        """Ends a running trace, when `state` is there."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False
            self._say(f"trace of steps from {self.config.start} on: {self.directory}")
