"""A thread that says where a hung process is stuck."""

import faulthandler
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from jaxssl.core.bounds import check_at_least


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """When a step counts as hung."""

    seconds: float = 600.0
    """Without a finished step for so long, the stacks of all threads are written to
    `stacks-<process>.txt` in the run directory, and standard error says so; 0 turns this off."""
    first_step_seconds: float = 3600.0
    """The same for the first step, which compiles."""

    def __post_init__(self):
        check_at_least(0, self, "seconds", "first_step_seconds")


class Watchdog:
    """Call `beat()` after each step; a context manager."""

    def __init__(self, config: WatchdogConfig, path: Path):
        self.config, self.path = config, path
        self._limit, self._last = config.first_step_seconds, time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """A step was finished."""
        self._limit, self._last = self.config.seconds, time.monotonic()

    def pause(self) -> None:
        """Something long but known begins (a validation that compiles): the longer limit holds."""
        self._limit, self._last = self.config.first_step_seconds, time.monotonic()

    def __enter__(self) -> "Watchdog":
        if self.config.seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(min(1.0, self.config.seconds / 4)):
            idle = time.monotonic() - self._last
            if self._limit and idle > self._limit:
                self._dump(idle)
                self._last = time.monotonic()

    def _dump(self, idle: float) -> None:
        heading = f"no step finished for {idle:.0f} s; stacks of all threads:\n"
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(heading)
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        print(f"watchdog: {heading.strip()} see {self.path}", file=sys.stderr, flush=True)
