"""How tests compile: quickly rather than well, once for all checkouts of a machine."""

import hashlib
import os
import platform
from pathlib import Path

FLAGS = {
    # Programs are many and small, and to compile them costs more than to run them: without the
    # emitters of fusions in MLIR, and in one piece, it takes 0.3 to 0.4 of the CPU time.
    "--xla_cpu_use_fusion_emitters": "false",
    "--xla_cpu_parallel_codegen_split_count": 1,
    # Eight devices share few cores: one that waits long in a collective is slow, not stuck.
    "--xla_cpu_collective_call_terminate_timeout_seconds": 240,
    "--xla_cpu_collective_timeout_seconds": 240,
}
DEVICES = "--xla_force_host_platform_device_count"
LIMIT = 2 << 30
"""Bytes of the cache from which on it is emptied."""


def set_up() -> None:
    """Sets what JAX reads when it is first imported, unless it is set."""
    cache = cache_dir()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        trim(cache)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # HLO passes all run
    os.environ["XLA_FLAGS"] = flags(8, os.environ.get("XLA_FLAGS", ""))


def flags(devices: int, given: str | None = None) -> str:
    """XLA_FLAGS for so many simulated devices; those that are `given` (or set) stay."""
    given = os.environ.get("XLA_FLAGS", "") if given is None else given
    more = [f"{name}={value}" for name, value in FLAGS.items() if name not in given]
    return " ".join([given, *more, f"{DEVICES}={devices}"]).strip()  # of two the last counts


def cache_dir() -> Path:
    """Where compiled programs lie: outside the checkout, so that the next one finds them. They are
    for one kind of CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kind = "".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
    except OSError:
        kind = platform.processor()
    digest = hashlib.sha256(f"{platform.machine()} {kind}".encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "jaxssl" / f"tests-{digest}"


def trim(cache: Path) -> None:
    """Empties a cache that has grown large, for what no test compiles any more lies there, too."""
    files = [path for path in cache.glob("*") if path.is_file()]
    if sum(path.stat().st_size for path in files) > LIMIT:
        for path in files:
            path.unlink(missing_ok=True)
