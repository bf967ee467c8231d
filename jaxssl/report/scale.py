"""Axes and numbers: where the ticks go, and how a value is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOG_DECADES = 8  # a logarithmic axis shows at most so many, from the top


@dataclass(frozen=True)
class Axis:
    """Maps values to [0, 1] linearly or by logarithm, with ticks."""

    low: float
    high: float
    log: bool = False

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """The place of `values`, NaN where there is none (non-finite; <= 0 on a log axis)."""
        low, high, values = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            values = np.where(values > 0, values, np.nan)
            low, high, values = math.log(low), math.log(high), np.log(np.maximum(values, self.low))
        return np.where(np.isfinite(values), (values - low) / (high - low), np.nan)

    def ticks(self, count: int = 6) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def linear_axis(values: np.ndarray, *, zero: bool = False, margin: float = 0.05) -> Axis:
    """An axis around the finite `values`; with `zero`, one that starts at zero."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    room = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Axis(low if zero and low == 0 else low - room, high + room)


def log_axis(values: np.ndarray) -> Axis | None:
    """A logarithmic axis around the positive `values`; None where there are none."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return None
    high = float(positive.max())
    low = max(float(positive.min()), high / 10**LOG_DECADES)
    room = max((high / low) ** 0.05, 1.02)
    return Axis(low / room, high * room, log=True)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers in [low, high]: steps of 1, 2, 2.5 or 5 times a power of ten."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = 12 - math.floor(math.log10(step))
    return [round(index * step, digits) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: decades, or 1-2-5, or linear ones where it is short."""
    decades = math.log10(high / low)
    if decades < 1:
        return ticks(low, high, 6)
    stride = math.ceil(decades / 6)
    units: Sequence[int] = (1,) if decades > 3 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [float(f"{unit}e{e}") for e in exponents if e % stride == 0 for unit in units]
    return [mark for mark in marks if low * 0.999 <= mark <= high * 1.001]


def tick_text(value: float) -> str:
    """A tick's label, short: 0.25, 1.5k, 2M, 3e-4."""
    magnitude = abs(value)
    if magnitude >= 1e12 or 0 < magnitude < 1e-3:
        return _exponent(f"{value:.3g}" if "e" in f"{value:.3g}" else f"{value:.2e}")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if magnitude >= size * 0.9999:
            return f"{value / size:.4g}{letter}"
    return f"{value:.6g}"


def value_text(value: float | None) -> str:
    """A value as it is read: four or five digits, fixed decimals so that columns line up."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    if magnitude >= 1000 or value == 0:
        return f"{value:,.0f}"
    for size, decimals in ((100, 1), (10, 2), (1, 3), (1e-3, 4)):
        if magnitude >= size:
            return f"{value:.{decimals}f}"
    return _exponent(f"{value:.2e}")


def count_text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def duration_text(seconds: float | None) -> str:
    """1 h 02 min, 3 min 07 s, 12.3 s."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def _exponent(text: str) -> str:
    """1.00e-04 -> 1e-4."""
    mantissa, _, exponent = text.partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"
