"""Learning rate schedules, in steps or tokens, as functions of the step."""

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

from jaxssl.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up from 0 to the peak, then the decay named."""

    name: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """Decay after warm-up: `linear` to the floor, `cosine` to the floor, `wsd` (constant, then a
    decay over the last part: warm-up, stable, decay), or `constant`."""
    unit: Literal["steps", "tokens"] = "steps"
    """Unit of `warmup` and `decay`."""
    warmup: float = 0
    """Length of the warm-up, in `unit`; a number below 1 is a share of the run."""
    decay: float = 0.1
    """For `wsd`: length of the final decay, in `unit`; a number below 1 is a share of the run."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """For `wsd`: a straight line, or 1 - sqrt (Hagele et al., 2024)."""
    floor: float = 0.0
    """Final learning rate as a share of the peak."""

    def __post_init__(self):
        if min(self.warmup, self.decay, self.floor) < 0:
            raise UserError(
                "a schedule cannot have a negative length or floor",
                where="warmup, decay, floor",
                expected="at least 0",
                got=(self.warmup, self.decay, self.floor),
            )


def make_schedule(
    config: Schedule, peak: float, total_steps: int, tokens_per_step: int
) -> optax.Schedule:
    """The learning rate as a function of the number of updates done before.

    The first update of a warm-up of w steps uses peak / w and the w-th the peak, so that no
    update is wasted at 0. The last update of a decay comes just before the floor would be
    reached.

    Raises:
      UserError: warm-up and decay are longer than the run.
    """

    def steps(length: float) -> int:
        if 0 < length < 1:
            return round(length * total_steps)
        return math.ceil(length / tokens_per_step) if config.unit == "tokens" else round(length)

    warmup = steps(config.warmup)
    decay = steps(config.decay) if config.name == "wsd" else 0
    if warmup + decay > total_steps:
        raise UserError(
            "the schedule is longer than the run",
            where="optimizer.schedule",
            expected=f"warm-up and decay of at most {total_steps} steps together",
            got=f"{warmup} + {decay} steps",
        )
    floor = peak * config.floor
    rest = max(1, total_steps - warmup)
    if config.name == "linear":
        parts, ends = [optax.linear_schedule(peak, floor, rest)], []
    elif config.name == "cosine":
        parts, ends = [optax.cosine_decay_schedule(peak, rest, alpha=config.floor)], []
    elif config.name == "wsd" and decay:
        shape = config.decay_shape
        parts = [optax.constant_schedule(peak), _final_decay(peak, floor, decay, shape)]
        ends = [total_steps - decay]
    else:
        parts, ends = [optax.constant_schedule(peak)], []
    if warmup:
        # Counts from 1, so that the first update moves.
        parts.insert(0, lambda step: peak * (step + 1) / warmup)
        ends.insert(0, warmup)
    return optax.join_schedules(parts, ends)


def _final_decay(peak: float, floor: float, length: int, shape: str) -> optax.Schedule:
    if shape == "linear":
        return optax.linear_schedule(peak, floor, length)
    return lambda step: floor + (peak - floor) * (1 - jnp.clip(step / length, 0, 1) ** 0.5)
