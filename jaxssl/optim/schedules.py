"""Learning rate schedules, in steps or tokens, as functions of the step.

A schedule is a class, and a line at the end of the file.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import optax

from jaxssl.core.bounds import check_above_zero, check_at_least
from jaxssl.core.errors import UserError
from jaxssl.core.registry import choice_name, members, register


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """What every schedule shares: how long its parts are."""

    name: str
    """How the learning rate moves."""
    unit: Literal["steps", "tokens"] = "steps"
    """Unit of the lengths below. A step counts as all tokens that its rows have room for, padding
    too (of rows with two sides the first), so that the rate is a function of the step."""

    @abstractmethod
    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        """The learning rate as a function of the number of updates done before.

        Args:
          peak: the highest learning rate.
          total_steps: of the whole run.
          tokens_per_step: what a step counts as where `unit` is tokens; None where steps are of
            several sizes.

        Raises:
          UserError: the schedule does not fit into the run.
        """

    def in_steps(self, length: float, total_steps: int, tokens_per_step: int | None) -> int:
        """A length in steps; one below 1 is a share of the run, whatever the unit.

        Raises:
          UserError: a length in tokens, where steps are of several sizes.
        """
        if 0 < length < 1:
            return round(length * total_steps)
        if self.unit == "steps":
            return round(length)
        if tokens_per_step is None and length:
            raise UserError(
                "a length in tokens cannot be turned into steps of several sizes",
                where="optimizer.schedule.unit",
                expected="streams by turns whose batches have room for equally many tokens",
                got=f"{length:,.0f} tokens",
                fix="set optimizer.schedule.unit=steps, or give the length as a share of the run",
            )
        return math.ceil(length / (tokens_per_step or 1))


# --- A warm-up, then a decay --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WarmUp(Schedule):
    """A schedule that begins with a way up to the peak."""

    warmup: float = 0
    """Length of the warm-up, in `unit`; a number below 1 is a share of the run."""

    def __post_init__(self):
        check_at_least(0, self, "warmup")

    def warmup_steps(self, total_steps: int, tokens_per_step: int | None, decay: int = 0) -> int:
        """The length of the warm-up in steps.

        Args:
          decay: steps at the end of the run that are no longer free.

        Raises:
          UserError: warm-up and decay are longer than the run.
        """
        warmup = self.in_steps(self.warmup, total_steps, tokens_per_step)
        if warmup + decay > total_steps:
            raise UserError(
                "the schedule is longer than the run",
                where="optimizer.schedule.warmup",
                expected=f"warm-up and decay of at most {total_steps} steps together",
                got=f"{warmup} + {decay} steps",
                fix=f"set optimizer.schedule.warmup={max(1, total_steps // 10)}, or train longer",
            )
        return warmup


def warmed_up(after: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    """A straight line from 0 to the peak, and then `after`, which counts its steps from 0 again.

    The first update of a warm-up of w steps uses peak / w and the w-th the peak, so that no update
    is wasted at 0. During the warm-up `after` is computed too, at negative steps, and not used.
    """
    if not warmup:
        return after

    def rising(step):
        return peak * (step + 1) / warmup

    return optax.join_schedules([rising, after], [warmup])


@dataclass(frozen=True, kw_only=True)
class Constant(WarmUp):
    """The peak, after the warm-up."""

    name: Literal["constant"] = "constant"
    """A warm-up, then the peak to the end."""

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        warmup = self.warmup_steps(total_steps, tokens_per_step)
        return warmed_up(optax.constant_schedule(peak), peak, warmup)


@dataclass(frozen=True, kw_only=True)
class Decay(WarmUp):
    """A schedule that goes down to a floor; its last update comes just before it gets there."""

    floor: float = 0.0
    """Final learning rate as a share of the peak."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "floor")


@dataclass(frozen=True, kw_only=True)
class Linear(Decay):
    """A straight line down (Devlin et al., 2018: BERT)."""

    name: Literal["linear"] = "linear"
    """A warm-up, then a straight line to the floor."""

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        warmup = self.warmup_steps(total_steps, tokens_per_step)
        after = optax.linear_schedule(peak, peak * self.floor, max(1, total_steps - warmup))
        return warmed_up(after, peak, warmup)


@dataclass(frozen=True, kw_only=True)
class Cosine(Decay):
    """Half a cosine down (Loshchilov & Hutter, 2016: SGDR, without restarts)."""

    name: Literal["cosine"] = "cosine"
    """A warm-up, then half a cosine to the floor."""

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        warmup = self.warmup_steps(total_steps, tokens_per_step)
        after = optax.cosine_decay_schedule(peak, max(1, total_steps - warmup), alpha=self.floor)
        return warmed_up(after, peak, warmup)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Decay):
    """Constant, with a decay at the end (Hu et al., 2024: MiniCPM; Hagele et al., 2024)."""

    name: Literal["wsd"] = "wsd"
    """Warm-up, stable, decay: the peak, but for a decay to the floor in the last part."""
    decay: float = 0.1
    """Length of the final decay, in `unit`; a number below 1 is a share of the run."""
    decay_shape: Literal["linear", "sqrt"] = "linear"
    """A straight line, or 1 - sqrt (Hagele et al., 2024)."""

    def __post_init__(self):
        super().__post_init__()
        check_at_least(0, self, "decay")

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        decay = self.in_steps(self.decay, total_steps, tokens_per_step)
        warmup = self.warmup_steps(total_steps, tokens_per_step, decay)
        after = optax.constant_schedule(peak)
        if decay:
            falling = self._final_decay(peak, peak * self.floor, decay)
            after = optax.join_schedules([after, falling], [total_steps - decay - warmup])
        return warmed_up(after, peak, warmup)

    def _final_decay(self, peak: float, floor: float, steps: int) -> optax.Schedule:
        if self.decay_shape == "linear":
            return optax.linear_schedule(peak, floor, steps)

        def falling(step):
            return floor + (peak - floor) * (1 - jnp.clip(step / steps, 0, 1) ** 0.5)

        return falling


@dataclass(frozen=True, kw_only=True)
class Rsqrt(WarmUp):
    """The peak up to `hold`, then down with the root of the step (Raffel et al., 2019: T5).

    A peak of 0.01 and 10,000 steps make T5's 1 / sqrt(max(step, 10,000)), which has no warm-up. A
    warm-up as long as `hold` makes the rate of Vaswani et al. (2017), equation 3.
    """

    name: Literal["rsqrt"] = "rsqrt"
    """The peak, then peak * sqrt(hold / step)."""
    hold: float = 10_000
    """Up to where the rate is the peak, in `unit`, with the warm-up counted; a number below 1 is a
    share of the run."""

    def __post_init__(self):
        super().__post_init__()
        check_above_zero(self, "hold")

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        warmup = self.warmup_steps(total_steps, tokens_per_step)
        hold = max(1, self.in_steps(self.hold, total_steps, tokens_per_step))
        if warmup > hold:
            raise UserError(
                "the warm-up goes on after the rate should fall",
                where="optimizer.schedule.warmup",
                expected=f"at most optimizer.schedule.hold, {hold} steps",
                got=f"{warmup} steps",
                fix="set optimizer.schedule.hold to the length of the warm-up, or longer",
            )

        def falling(step):
            return peak * jnp.sqrt(hold / jnp.maximum(step + warmup, hold))

        return warmed_up(falling, peak, warmup)


# --- Once up and down ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SlantedTriangular(WarmUp):
    """A short straight line up and a long one down (Howard & Ruder, 2018: ULMFiT, equation 3)."""

    name: Literal["slanted"] = "slanted"
    """Slanted triangular: a straight line up from peak / 32, and one down to it."""
    warmup: float = 0.1
    """Length of the way up, in `unit`; a number below 1 is a share of the run, 0.1 as published."""

    RATIO: ClassVar[float] = 32.0
    """What the peak is divided by at both ends."""

    def __post_init__(self):
        check_above_zero(self, "warmup")

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        cut = self.warmup_steps(total_steps, tokens_per_step)

        def schedule(step):
            up, down = step / cut, 1 - (step - cut) / max(1, total_steps - cut)
            share = jnp.clip(jnp.where(step < cut, up, down), 0, 1)
            return peak * (1 + share * (self.RATIO - 1)) / self.RATIO

        return schedule


@dataclass(frozen=True, kw_only=True)
class OneCycle(WarmUp):
    """Half a cosine up and half a one down (Smith & Topin, 2018, in the form that fastai 1 gave it;
    PyTorch's OneCycleLR is the same).

    The momentum stays as it is, where fastai moves it against the rate.
    """

    name: Literal["one_cycle"] = "one_cycle"
    """By half a cosine up from peak / 25, and by another down to peak / 250,000."""
    warmup: float = 0.3
    """Length of the way up, in `unit`; a number below 1 is a share of the run, 0.3 as in fastai
    and PyTorch."""

    START: ClassVar[float] = 25.0
    """What the peak is divided by at the start."""
    END: ClassVar[float] = 250_000.0
    """And at the end."""

    def __post_init__(self):
        check_above_zero(self, "warmup")

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        up = self.warmup_steps(total_steps, tokens_per_step)

        def schedule(step):
            rising = _half_cosine(peak / self.START, peak, step / up)
            falling = _half_cosine(peak, peak / self.END, (step - up) / max(1, total_steps - up))
            return jnp.where(step < up, rising, falling)

        return schedule


def _half_cosine(start: float, end: float, share: Any) -> Any:
    """From `start` to `end`, of which `share` is done."""
    return end + (start - end) * (1 + jnp.cos(jnp.pi * share)) / 2


# --- Up and down again and again ----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Cyclical(Schedule):
    """Smith's (2015): low + (peak - low) * max(0, 1 - |t / s - 2 c + 1|) * height(t, c), with
    half-cycles of s steps and c = floor(1 + t / (2 s))."""

    floor: float = 0.0
    """Lowest learning rate as a share of the peak."""
    half_cycle: float = 0.05
    """From the lowest rate to the highest, in `unit`; a number below 1 is a share of the run."""

    def __post_init__(self):
        check_at_least(0, self, "floor")
        check_above_zero(self, "half_cycle")

    @abstractmethod
    def height(self, step: Any, cycle: Any) -> Any:
        """What a peak's distance from the floor is multiplied with, at a step of a cycle; cycles
        count from 1."""

    def make(self, peak: float, total_steps: int, tokens_per_step: int | None) -> optax.Schedule:
        low = peak * self.floor
        half = max(1, self.in_steps(self.half_cycle, total_steps, tokens_per_step))

        def schedule(step):
            cycle = jnp.floor(1 + step / (2 * half))
            share = jnp.maximum(0.0, 1 - jnp.abs(step / half - 2 * cycle + 1))
            return low + (peak - low) * share * self.height(step, cycle)

        return schedule


@dataclass(frozen=True, kw_only=True)
class Triangular(Cyclical):
    """Cycles of one height (Smith, 2015)."""

    name: Literal["triangular"] = "triangular"
    """Straight lines between the floor and the peak, again and again."""

    def height(self, step: Any, cycle: Any) -> Any:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Triangular2(Cyclical):
    """Cycles that halve (Smith, 2015)."""

    name: Literal["triangular2"] = "triangular2"
    """As `triangular`, with half the height in each cycle."""

    def height(self, step: Any, cycle: Any) -> Any:
        return 0.5 ** (cycle - 1)


@dataclass(frozen=True, kw_only=True)
class ExpRange(Cyclical):
    """Cycles that shrink with each step (Smith, 2015)."""

    name: Literal["exp_range"] = "exp_range"
    """As `triangular`, with gamma^step of the height."""
    gamma: float = 0.9999
    """What the height is multiplied with each step."""

    def __post_init__(self):
        super().__post_init__()
        check_above_zero(self, "gamma")

    def height(self, step: Any, cycle: Any) -> Any:
        return self.gamma**step


# --- All of them --------------------------------------------------------------------------------

register(
    Schedule,
    Linear,
    Cosine,
    WarmupStableDecay,
    Constant,
    Rsqrt,
    SlantedTriangular,
    OneCycle,
    Triangular,
    Triangular2,
    ExpRange,
)

ONE_FOR_ALL = {"unit", "warmup", "decay", "decay_shape", "floor", "half_cycle", "gamma"}
"""The keys that every schedule had when all were one class."""


def upgraded_schedule(old: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule as older runs wrote it, with the keys that its class has today.

    Those runs wrote all of `ONE_FOR_ALL`, whatever the schedule read. What it never read is left
    out; everything else stays, so that a key which was never known is still an error.
    """
    by_name = {choice_name(cls): cls for cls in members(Schedule)}
    name = old.get("name", Linear.name)
    cls = by_name.get(name) if isinstance(name, str) else None  # what is no name is told later
    if cls is None:
        return dict(old)
    unread = ONE_FOR_ALL - {field.name for field in dataclasses.fields(cls)}
    return {key: value for key, value in old.items() if key not in unread}
