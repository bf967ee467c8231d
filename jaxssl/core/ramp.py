"""Numbers that move over a run: straight lines between given steps."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from jaxssl.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A number that moves from one value to the next, and stays at the last."""

    points: tuple[tuple[int, float], ...]
    """[step, value] pairs in rising order, the first at step 0: [[0, 1.0], [1000, 0.1]]."""

    def __post_init__(self):
        steps = [step for step, _ in self.points]
        rises = steps == sorted(set(steps)) and steps[:1] == [0]
        if not rises or any(not 0 <= value < float("inf") for _, value in self.points):
            raise UserError(
                "these are not points of a line over steps",
                where="points",
                expected="[step, value] pairs, steps rising from 0, values of at least 0",
                got=[list(point) for point in self.points],
            )

    def at(self, step: int) -> Fraction:
        """The value at a step, exactly."""
        before = max(i for i, (first, _) in enumerate(self.points) if first <= step)
        start, low = self.points[before]
        if before + 1 == len(self.points):
            return Fraction(low)
        end, high = self.points[before + 1]
        share = Fraction(step - start, end - start)
        return Fraction(low) + (Fraction(high) - Fraction(low)) * share


Factor = float | Ramp
"""A number, or one that moves."""


def factor_at(factor: Factor, step: Any, interpolate: Any = np.interp) -> Any:
    """The value of a factor at a step, which may be traced.

    Args:
      interpolate: `jnp.interp` where it is.
    """
    if not isinstance(factor, Ramp):
        return factor
    steps, values = zip(*factor.points)
    return interpolate(step, np.array(steps, np.float32), np.array(values, np.float32))


def last_of(factor: Factor) -> float:
    """The value that a factor ends at."""
    return factor.points[-1][1] if isinstance(factor, Ramp) else factor


def agree(one: Factor, other: Factor, until: int) -> bool:
    """Whether two factors have the same values at all steps up to one."""
    ramps = [factor if isinstance(factor, Ramp) else constant(factor) for factor in (one, other)]
    bends = {step for ramp in ramps for step, _ in ramp.points if step <= until}
    return all(ramps[0].at(step) == ramps[1].at(step) for step in {*bends, until})


def constant(value: float) -> Ramp:
    """A number as one that does not move."""
    return Ramp(points=((0, value),))


def times(outer: Factor, inner: Factor) -> Factor:
    """A factor of a factor.

    Raises:
      UserError: both move.
    """
    if not isinstance(outer, Ramp):
        outer, inner = inner, outer
    if isinstance(inner, Ramp):
        raise UserError("two factors of one loss move", where="weight", expected="one of them")
    if not isinstance(outer, Ramp):
        return outer * inner
    return Ramp(points=tuple((step, value * inner) for step, value in outer.points))
