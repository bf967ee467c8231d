"""What tests run under: eight simulated CPU devices, one cache of compilations, no network."""

import os
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "jax-tests"

# Read by jax when it is first imported, and inherited by the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"
DEVICES = "--xla_force_host_platform_device_count"
if DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}=8".strip()

pytest_plugins = ["toy"]
