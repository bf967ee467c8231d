"""Runs every benchmark and prints one table each. `python -m benchmarks training` runs one of them;
`python -m benchmarks --against CHECKOUT` times whole runs here and there, by turns."""

import argparse
import functools
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from benchmarks import (  # noqa: E402
    finetuning,
    generation,
    gpu,
    interchange,
    memory,
    parity,
    pipeline,
    pods,
    steps,
    training,
)
from benchmarks.machine import refuse_if_loaded  # noqa: E402

BENCHMARKS = {
    "steps": steps.run,
    "training": training.run,
    "finetuning": finetuning.run,
    "generation": generation.run,
    "interchange": interchange.run,
    "parity": parity.run,
    "memory": memory.run,
    "pipeline": pipeline.run,
    "pods": pods.run,
    "gpu": gpu.run,
}
LEFT_OUT = ("pods", "gpu")
"""Not run unless named: the first wants libtpu, and takes an hour on two cores; the second wants a
GPU."""


def main() -> None:
    """Runs the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--against", metavar="CHECKOUT", help="another checkout of jaxssl")
    parser.add_argument("--try", dest="is_trial", action="store_true", help="gpu: on the CPU, tiny")
    options = parser.parse_args()
    benchmarks = {**BENCHMARKS, "gpu": functools.partial(gpu.run, options.is_trial)}
    if options.against:
        benchmarks = {"steps": functools.partial(steps.run, options.against)}
    names = options.names or [name for name in benchmarks if name not in LEFT_OUT]
    for name in names:
        if name not in benchmarks:
            parser.error(f"unknown benchmark {name!r}; there are {', '.join(benchmarks)}")
        if name not in ("parity", "pods", "gpu"):  # they take no time of their own, or look later
            refuse_if_loaded()
        print(f"\n== {name}", flush=True)
        benchmarks[name]()


if __name__ == "__main__":
    main()
