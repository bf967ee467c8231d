"""What tests run under: eight simulated CPU devices, one cache of compilations, no network."""

import gc
import os
import signal

import compiled
import pytest

from jaxssl.core import cpu_devices

# Traces are millions of objects that live on: to look through them often takes an eighth of a run.
gc.set_threshold(100_000, 20, 10)

# Read by jax when it is first imported, and inherited by the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
compiled.set_up()
cpu_devices.make_room()

pytest_plugins = ["toy", "tuned"]

# A file runs on one worker: those that take more than a minute come first, so that none is left
# for the end.
SLOW = (
    "test_networks",
    "test_adapt",
    "test_streams",
    "test_unfreezing",
    "test_gradients",
    "test_finetune",
    "test_loop",
    "test_processes",
    "test_resume",
    "test_masking",
    "test_predict",
    "test_compare",
    "test_entropy",
    "test_continuing",
    "test_adafactor",
    "test_answer",
    "test_step",
    "test_cli",
    "test_bad_input",
    "test_prepare",
    "test_relate",
    "test_finetune_tag",
    "test_similarity",
    "test_cached",
    "test_adapters",
    "test_families",
    "test_hf_parity",
    "test_old_runs",
    "test_plugins",
)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOW)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Names what failed at once, not in the summary alone, which a time limit may cut off."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} failed in its {report.when}\n{report.longreprtext}", flush=True)


def pytest_sessionfinish(session):
    """xdist interrupts a worker that takes more than 5 seconds to clean up after its last test, and
    the KeyboardInterrupt would be told of whatever callback it strikes: Hypothesis's, JAX's."""
    if hasattr(session.config, "workerinput"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
