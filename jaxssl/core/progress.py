"""One kind of progress bar for everything that takes more than a few seconds."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def bar(
    iterable: Iterable | None = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "it",
    enabled: bool = True,
    initial: int = 0,
) -> tqdm:
    """A tqdm bar on standard error; a log that is not a terminal gets a line every 10 seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=unit,
        unit_scale=unit != "it",
        disable=not enabled,
        initial=initial,
        mininterval=0.5 if terminal else 10.0,
        dynamic_ncols=terminal,
        smoothing=0.1,
    )
