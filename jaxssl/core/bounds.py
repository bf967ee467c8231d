"""Checks of numbers that several configurations share."""

import math
from typing import Any

from jaxssl.core.errors import UserError

SEEDS = 2**32


def check_at_least(low: float, config: Any, *names: str) -> None:
    """Refuses fields of `config` that are below `low` or not finite; None, where allowed, passes.

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value < math.inf:
            raise UserError(
                "a number is out of range", where=name, expected=f"at least {low}", got=value
            )


def check_above_zero(config: Any, *names: str) -> None:
    """Refuses fields of `config` that are not above 0, or not finite; None, where allowed, passes.

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError("a number is out of range", where=name, expected="above 0", got=value)


def check_seed(config: Any, name: str = "seed") -> None:
    """Refuses a seed that 32 bits do not hold: another would stand for it.

    Raises:
      UserError: names the field.
    """
    value = getattr(config, name)
    if not 0 <= value < SEEDS:
        raise UserError(
            "a seed is out of range",
            where=name,
            expected=f"0 to {SEEDS - 1} (32 bits)",
            got=value,
        )
