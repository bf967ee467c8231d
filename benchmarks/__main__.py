"""Runs every benchmark and prints one table. `python -m benchmarks training` runs one of them."""

import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from benchmarks import (  # noqa: E402
    finetuning,
    interchange,
    memory,
    parity,
    pipeline,
    start,
    training,
)
from benchmarks.machine import refuse_if_loaded  # noqa: E402

BENCHMARKS = {
    "training": training.run,
    "finetuning": finetuning.run,
    "interchange": interchange.run,
    "parity": parity.run,
    "memory": memory.run,
    "pipeline": pipeline.run,
    "start": start.run,
}


def main() -> None:
    """Runs the benchmarks named on the command line, or all."""
    names = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"error: unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        if name != "parity":  # it takes no time
            refuse_if_loaded()
        print(f"\n== {name}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
