"""Tokens per second of a training step: ours against `transformers` on PyTorch, on this CPU."""

import statistics

from benchmarks import peers
from benchmarks.machine import interleave, ratio, spread

ROUNDS, CALLS, WARM_UP = 9, 2, 3
TARGETS = {"masked": 1.25, "causal": 1.0}


def run() -> None:
    """Prints a row per objective: medians, spread, the ratio and its range over rounds."""
    head = f"{'work':<20}{'ours tok/s':>12}{'spread':>14}{'torch tok/s':>13}{'spread':>14}"
    print(head + f"{'ratio':>8}{'range':>14}{'target':>8}")
    for name, work in peers.WORK.items():
        sides = {"ours": peers.Ours(work), "theirs": peers.Theirs(work)}
        for side in sides.values():
            for _ in range(WARM_UP):
                side()
        samples = interleave(sides, ROUNDS, CALLS)
        tokens = work.rows * work.length
        speed = {side: tokens / statistics.median(times) for side, times in samples.items()}
        middle, low, high = ratio(samples["ours"], samples["theirs"])
        print(
            f"{name + f' {work.rows}x{work.length}':<20}{speed['ours']:>12,.0f}"
            f"{spread(samples['ours']):>14}{speed['theirs']:>13,.0f}{spread(samples['theirs']):>14}"
            f"{middle:>8.2f}{f'{low:.2f}..{high:.2f}':>14}{TARGETS[name]:>8.2f}",
            flush=True,
        )
