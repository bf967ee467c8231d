"""Ending a run before its time: signals, early stopping, losses that are not finite."""

import math
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from jaxssl.core.errors import UserError

EXIT_STOPPED = 75
"""Exit code after SIGTERM or Ctrl-C: saved, run the same command again to go on (EX_TEMPFAIL)."""
EXIT_NOT_FINITE = 3
"""Exit code after a loss or gradient that was not finite, where the run may not go on."""


class NotFinite(RuntimeError):
    """Training stopped at a loss or gradient that was not finite; the last good state was saved."""


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered; a second SIGINT interrupts at once.

    Args:
      say: is told of the first signal.
    """

    def __init__(self, say: Callable[[str], None] = print):
        self.received: str | None = None
        self._say = say
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        again = "; Ctrl-C again quits without saving" if number == signal.SIGINT else ""
        self._say(f"\n{self.received}: saving after this step{again}")


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when the validation loss no longer falls."""

    patience: int = 5
    """Validations without a new best before the run ends."""
    min_improvement: float = 0.0
    """How much lower than the best a validation loss must be to count, in nats."""

    def __post_init__(self):
        if self.patience < 1 or self.min_improvement < 0:
            raise UserError(
                "an early stopping setting is out of range",
                where="patience, min_improvement",
                expected="patience >= 1, min_improvement >= 0",
                got=(self.patience, self.min_improvement),
            )

    def is_over(self, losses: list[float]) -> bool:
        """Whether these validation losses, in order, end the run."""
        best, waited = math.inf, 0
        for loss in losses:
            improved = loss < best - self.min_improvement
            best, waited = (loss, 0) if improved else (best, waited + 1)
        return waited >= self.patience
