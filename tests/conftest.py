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

# A file runs on one worker: those that take more than half a minute come first, so that none is
# left for the end.
SLOW = (
    "test_every_mesh",
    "test_on_meshes",
    "test_equal_processes",
    "test_adapt",
    "test_transformers",
    "test_streams",
    "test_loop",
    "test_processes",
    "test_resume",
    "test_unfreezing",
    "test_networks",
    "test_adapters",
    "test_files",
    "test_seq2seq",
    "test_adafactor",
    "test_denoising",
    "test_similarity",
    "test_step",
    "test_prepare",
    "test_embed",
    "test_gradients",
    "test_finetune",
    "test_masking",
    "test_cli",
    "test_families",
    "test_knowledge",
    "test_plugins",
    "test_export",
    "test_soup",
    "test_methods",
    "test_patterns",
    "test_bad_input",
    "test_old_runs",
    "test_auto_encode",
    "test_continuing",
    "test_predict",
    "test_decode",
)


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.stem, len(SLOW)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Names what failed at once, not in the summary alone, which a time limit may cut off."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\n{report.nodeid} failed in its {report.when}\n{report.longreprtext}", flush=True)


def pytest_terminal_summary(terminalreporter):
    """How far apart one device and many came out, where tests looked (see equal.py)."""
    reports = [each for name in ("passed", "failed") for each in terminalreporter.getreports(name)]
    noted = [pair for each in reports if each.when == "call" for pair in each.user_properties]
    rows = [value for name, value in noted if name == "equal"]
    if rows:
        import equal  # imports JAX, which is not asked for before it is needed

        terminalreporter.section("one device and many: largest relative differences")
        for line in equal.table(rows):
            terminalreporter.line(line)


def pytest_sessionfinish(session):
    """xdist interrupts a worker that takes more than 5 seconds to clean up after its last test, and
    the KeyboardInterrupt would be told of whatever callback it strikes: Hypothesis's, JAX's."""
    if hasattr(session.config, "workerinput"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
