"""Ending a run before its time: signals, early stopping, losses that are not finite."""

import math
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jaxssl.core.bounds import check_at_least
from jaxssl.core.interrupts import EXIT_STOPPED as EXIT_STOPPED

EXIT_NOT_FINITE = 3
"""Exit code after a loss or gradient that was not finite, where the run may not go on."""


class NotFinite(RuntimeError):
    """Training stopped at a loss or gradient that was not finite; the last good state was saved."""


class StopSignal:
    """Notes SIGTERM, SIGHUP and SIGINT while it is entered; a second SIGINT interrupts at once, as
    it would have done before. SIGHUP that is ignored (nohup) stays so.

    Args:
      say: is told of the first signal.
    """

    def __init__(self, say: Callable[[str], None] = print):
        self.received: str | None = None
        self._say = say
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received == "SIGINT" and number == signal.SIGINT:
            before = self._previous[number]
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        again = "; Ctrl-C again quits without saving" if number == signal.SIGINT else ""
        self._say(f"\n{self.received}: saving after this step{again}")


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when what `best_by` names no longer gets better."""

    patience: int = 5
    """Validations without a new best before the run ends."""
    min_improvement: float = 0.0
    """How much better than the best a validation must be to count, in the unit of what `best_by`
    names (nats, of a loss)."""

    def __post_init__(self):
        check_at_least(1, self, "patience")
        check_at_least(0, self, "min_improvement")

    def is_over(self, selections: list[float]) -> bool:
        """Whether these validations, in order, lower being better, end the run."""
        best, waited = math.inf, 0
        for value in selections:
            improved = value < best - self.min_improvement
            best, waited = (value, 0) if improved else (best, waited + 1)
        return waited >= self.patience
