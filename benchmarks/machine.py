"""Is the machine quiet enough to measure, and how samples are summarised."""

import os
import statistics
import sys
import time

import psutil


def refuse_if_loaded(limit: float = 0.15, seconds: float = 5.0) -> None:
    """Exits with code 2 if other processes use more than `limit` of the cores, unless told not
    to."""
    own = psutil.Process()
    before, start = own.cpu_times(), time.perf_counter()
    busy = psutil.cpu_percent(interval=seconds) / 100
    mine = sum(own.cpu_times()[:2]) - sum(before[:2])
    others = busy - mine / (time.perf_counter() - start) / (os.cpu_count() or 1)
    if others > limit and not os.environ.get("BENCH_ANYWAY"):
        sys.exit(
            f"error: the machine is busy: other processes use {others:.0%} of its cores (limit "
            f"{limit:.0%}); a benchmark would mislead. Wait, or set BENCH_ANYWAY=1."
        )


def interleave(sides: dict, rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds per call of each side, measured A B A B: {side: [rounds]}."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            samples[name].append((time.perf_counter() - start) / calls)
    return samples


def spread(values: list[float]) -> str:
    """Median and the range around it, in percent."""
    middle = statistics.median(values)
    low, high = min(values) / middle - 1, max(values) / middle - 1
    return f"{low:+.0%}..{high:+.0%}"


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Median, least and greatest of their time over ours, round by round."""
    each = [b / a for a, b in zip(ours, theirs)]
    return statistics.median(each), min(each), max(each)
