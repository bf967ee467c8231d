"""What every family's configuration refuses."""

from typing import Any

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError


def check_sizes(config: Any) -> None:
    """Refuses a shape (of this family or another) with a size below 1.

    Raises:
      UserError: names the first such field.
    """
    sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
    check_at_least(1, config, *sizes, "max_positions")
    check_above_zero(config, "norm_epsilon", "initializer_range")


def check_heads(hidden_size: int, num_heads: int) -> None:
    """Refuses a width that the heads do not divide.

    Raises:
      UserError: always names the widths that would fit.
    """
    if num_heads < 1 or hidden_size % num_heads:
        below = hidden_size - hidden_size % max(num_heads, 1)
        raise UserError(
            "the heads do not divide the width",
            where="num_heads",
            expected=f"a divisor of hidden_size={hidden_size}",
            got=num_heads,
            fix=f"use hidden_size={below or num_heads} or another number of heads",
        )


def check_rates(**rates: float) -> None:
    """Refuses dropout rates outside [0, 1).

    Raises:
      UserError: names the first such rate.
    """
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(
                "a dropout rate is out of range",
                where=name,
                expected="at least 0 and below 1",
                got=rate,
            )
