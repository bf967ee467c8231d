"""A window of steps traced by the JAX profiler."""

from dataclasses import dataclass
from pathlib import Path

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
    """Starts and stops the trace as steps go by."""

    def __init__(self, config: ProfileConfig, directory: Path):
        self.config, self.directory, self._running = config, directory, False

    def before(self, step: int) -> None:
        """Call before dispatching `step`."""
        if step == self.config.start and not self._running:
            jax.profiler.start_trace(str(self.directory))
            self._running = True
        elif step == self.config.stop:
            self.close()

    def close(self) -> None:
        """Ends a running trace."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
