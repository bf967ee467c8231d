"""A second start compiles from the cache: seconds to the first step, cold and warm."""

import os
import re
import subprocess
import sys
import tempfile

PROGRAM = """
import time; started = time.perf_counter()
from jaxssl.cli import set_up_jax; set_up_jax()
from benchmarks import peers
ours = peers.Ours(peers.WORK["masked"])
begun = time.perf_counter(); ours(); print("seconds", time.perf_counter() - begun)
"""


def run() -> None:
    """Prints the first step's seconds of two processes that share a compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        for name in ("cold", "warm"):
            out = subprocess.run(
                [sys.executable, "-c", PROGRAM],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            found = re.search(r"seconds ([\d.]+)", out.stdout)
            assert found is not None, out.stderr
            print(f"first step, {name} cache: {float(found.group(1)):.1f} s")
