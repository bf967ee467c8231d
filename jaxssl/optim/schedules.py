"""Learning rate schedules, in steps or tokens, as functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import optax

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate moves: a warm-up and a decay, or up and down."""

    name: Literal[
        "linear",
        "cosine",
        "wsd",
        "constant",
        "slanted",
        "one_cycle",
        "triangular",
        "triangular2",
        "exp_range",
    ] = "linear"
    """After a linear warm-up from 0 to the peak: `linear` to the floor, `cosine` to the floor,
    `wsd` (constant, then a decay over the last part: warm-up, stable, decay), or `constant`. Or up
    and down: `slanted` (slanted triangular, Howard & Ruder, 2018: from and to peak / 32, `warmup`
    is the way up), `one_cycle` (Smith & Topin, 2018, as fastai has it: by cosines up from peak / 25
    over `warmup` and down to peak / 250,000), or cyclical (Smith, 2015): `triangular` between
    `floor` and the peak, `triangular2` with half the height each cycle, `exp_range` with gamma^step
    of it."""
    unit: Literal["steps", "tokens"] = "steps"
    """Unit of `warmup`, `decay` and `half_cycle`. A step counts as all tokens that its rows have
    room for, padding too, so that the rate is a function of the step."""
    warmup: float = 0
    """Length of the warm-up, in `unit`; a number below 1 is a share of the run."""
    decay: float = 0.1
    """For `wsd`: length of the final decay, in `unit`; a number below 1 is a share of the run."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """For `wsd`: a straight line, or 1 - sqrt (Hagele et al., 2024)."""
    floor: float = 0.0
    """Final, or lowest, learning rate as a share of the peak."""
    half_cycle: float = 0.05
    """For cyclical schedules: from the lowest rate to the highest, in `unit`; a number below 1 is a
    share of the run."""
    gamma: float = 0.9999
    """For `exp_range`: what the height is multiplied with each step."""

    def __post_init__(self):
        check_at_least(0, self, "warmup", "decay", "floor")
        check_above_zero(self, "half_cycle", "gamma")
        if self.name in ("slanted", "one_cycle") and not self.warmup:
            raise UserError(
                f"{self.name} needs a way up",
                where="warmup",
                expected="above 0: 0.1 as published for slanted, 0.3 for one_cycle",
                got=self.warmup,
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
            where="optimizer.schedule.warmup",
            expected=f"warm-up and decay of at most {total_steps} steps together",
            got=f"{warmup} + {decay} steps",
            fix=f"set optimizer.schedule.warmup={max(1, total_steps // 10)}, or train longer",
        )
    floor = peak * config.floor
    if config.name == "slanted":
        return slanted_triangular(peak, total_steps, warmup)
    if config.name == "one_cycle":
        return one_cycle(peak, total_steps, warmup)
    if config.name in ("triangular", "triangular2", "exp_range"):
        height = {
            "triangular": lambda step, cycle: 1.0,
            "triangular2": lambda step, cycle: 0.5 ** (cycle - 1),
            "exp_range": lambda step, cycle: config.gamma**step,
        }[config.name]
        return cyclical(floor, peak, max(1, steps(config.half_cycle)), height)
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


def slanted_triangular(
    peak: float, total_steps: int, cut: int, ratio: float = 32.0
) -> optax.Schedule:
    """ULMFiT's (Howard & Ruder, 2018): linearly up for `cut` steps, then down; peak / ratio at both
    ends."""

    def schedule(step):
        up, down = step / cut, 1 - (step - cut) / max(1, total_steps - cut)
        share = jnp.clip(jnp.where(step < cut, up, down), 0, 1)
        return peak * (1 + share * (ratio - 1)) / ratio

    return schedule


def one_cycle(
    peak: float, total_steps: int, up: int, start: float = 25.0, end: float = 250_000.0
) -> optax.Schedule:
    """fastai's: by a cosine from peak / start to the peak over `up` steps, and on to peak / end.

    The momentum stays as it is, where fastai moves it against the rate.
    """
    cosine = lambda low, high, share: high + (low - high) * (1 + jnp.cos(jnp.pi * share)) / 2

    def schedule(step):
        rising = cosine(peak / start, peak, step / up)
        falling = cosine(peak, peak / end, (step - up) / max(1, total_steps - up))
        return jnp.where(step < up, rising, falling)

    return schedule


def cyclical(
    low: float, peak: float, half_cycle: int, height: Callable[[Any, Any], Any]
) -> optax.Schedule:
    """Smith's (2015): low + (peak - low) * max(0, 1 - |t / s - 2 c + 1|) * height(t, c), with
    half-cycles of s steps and c = floor(1 + t / (2 s))."""

    def schedule(step):
        cycle = jnp.floor(1 + step / (2 * half_cycle))
        share = jnp.maximum(0.0, 1 - jnp.abs(step / half_cycle - 2 * cycle + 1))
        return low + (peak - low) * share * height(step, cycle)

    return schedule


def _final_decay(peak: float, floor: float, length: int, shape: str) -> optax.Schedule:
    if shape == "linear":
        return optax.linear_schedule(peak, floor, length)
    return lambda step: floor + (peak - floor) * (1 - jnp.clip(step / length, 0, 1) ** 0.5)
