"""One kind of progress bar for everything that takes more than a few seconds."""

import contextlib
import sys
from collections.abc import Iterable, Iterator

from tqdm import tqdm

_silenced: list[None] = []
"""One for each `silent` that is open, in any thread: there is one terminal."""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Shows none of the bars that are made inside, in any thread: there is one of all the work."""
    _silenced.append(None)
    try:
        yield
    finally:
        _silenced.pop()


class _Bar(tqdm):
    """A bar with a note of what is waited for."""

    note: str | None = None

    def update(self, n: float | None = 1) -> bool | None:
        if n and self.note is not None:
            self.note = self.postfix = None
        return super().update(n)


def bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "it",
    enabled: bool = True,
    initial: int = 0,
    note: str | None = None,
) -> tqdm:
    """A tqdm bar on standard error; a log that is not a terminal gets a line every 10 seconds.

    Args:
      note: what stands behind it until something is done.
    """
    terminal = sys.stderr.isatty()
    made = _Bar(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit != "it",
        disable=not enabled or bool(_silenced),
        initial=initial,
        mininterval=0.5 if terminal else 10.0,
        dynamic_ncols=terminal,
        smoothing=0.1,
        postfix=note,
    )
    made.note = note
    return made


def tell(text: str) -> None:
    """Prints a line on standard error, above the bars that are there."""
    tqdm.write(text, file=sys.stderr)
