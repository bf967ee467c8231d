"""Whole runs of `jaxssl pretrain`: a step's time, the time to the first step, and peak memory; of
this checkout, or of two by turns."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent.parent
ROUNDS, LOGGED = 3, 10  # the first round compiles; steps between lines of metrics
WORDS = 400_000  # of the text, 2 MB
KINDS, SIZES = {"bytes": "byte_bpe", "words": "wordpiece"}, {"bytes": 257, "words": 4096}
TINY = "pretrain/bert-tiny"
RUNS = {
    "nanogpt-cpu 12x64": ("pretrain/nanogpt-cpu", "bytes", 200, ()),
    "bert-tiny 32x128": (TINY, "words", 50, ("data.batch_size=32",)),
    "bert-tiny 8x512": (TINY, "words", 50, ("data.batch_size=8", "data.sequence_length=512")),
}
"""Recipe, store, steps and changes of each."""


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    step: float  # seconds, the median
    first: float  # seconds from the command to the end of the first step
    cpu: float  # seconds of user and system, the whole process
    peak: float  # MiB


def run(against: str | None = None) -> None:
    """Prints a row for each run and checkout: the best of several rounds, by turns.

    Args:
      against: another checkout of jaxssl.
    """
    checkouts = [HERE, *([Path(against).resolve()] if against else [])]
    columns = f"{'step ms':>9}{'first step s':>14}{'cached s':>10}{'CPU s':>8}{'peak MiB':>10}"
    print(f"{'run':<20}{columns}  checkout")
    with tempfile.TemporaryDirectory() as scratch:
        stores = made_stores(Path(scratch))
        for name, (recipe, store, steps, changes) in RUNS.items():
            words = (recipe, f"data.store={stores / store}", f"train.steps={steps}", *changes)
            words += (f"model.vocab_size={SIZES[store]}", "optimizer.schedule.warmup=5")
            rounds: list[list[Measured]] = [[] for _ in checkouts]
            for _ in range(ROUNDS):
                for number, (checkout, found) in enumerate(zip(checkouts, rounds)):
                    cache = Path(scratch) / f"cache-{number}"
                    found.append(_measure(checkout, words, Path(scratch), cache))
            for checkout, (cold, *warm) in zip(checkouts, rounds):
                step, first, cpu = (
                    min(getattr(x, part) for x in warm) for part in ("step", "first", "cpu")
                )
                peak = max(x.peak for x in warm)
                row = f"{1e3 * step:>9.1f}{cold.first:>14.1f}{first:>10.1f}{cpu:>8.1f}{peak:>10.0f}"
                print(f"{name:<20}{row}  {checkout}", flush=True)


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout)}


def made_stores(scratch: Path) -> Path:
    """Two token stores of made-up text, made by this checkout."""
    import numpy as np

    generator = np.random.default_rng(0)
    letters = generator.integers(97, 123, (5000, 4)).astype(np.uint8)
    vocabulary = [bytes(word).decode() for word in letters]
    text = [vocabulary[i] for i in generator.zipf(1.3, WORDS) % len(vocabulary)]
    sentences = [" ".join(text[i : i + 20]).capitalize() + "." for i in range(0, WORDS, 20)]
    lines = (" ".join(sentences[i : i + 5]) for i in range(0, len(sentences), 5))
    (scratch / "text.txt").write_text("\n\n".join(lines))
    source = ("source.name=text", f"source.paths=[{scratch / 'text.txt'}]")
    for store, kind in KINDS.items():
        pieces = scratch / f"{store}-pieces"
        made = (f"kind={kind}", f"vocab_size={SIZES[store]}", f"out={pieces}")
        kept = ("source.documents=blank_lines", "validation_fraction=0.1", "sentences=rule")
        for words in (
            ("tokenizer", *made, *source),
            ("prepare", f"tokenizer={pieces}", f"out={scratch / store}", *source, *kept),
        ):
            subprocess.run(
                [sys.executable, "-m", "jaxssl", *words],
                env=_environment(HERE),
                capture_output=True,
                check=True,
            )
    return scratch


def _measure(checkout: Path, words: tuple[str, ...], scratch: Path, cache: Path) -> Measured:
    """One run, in a process of its own, without validations and with one checkpoint."""
    with tempfile.TemporaryDirectory(dir=scratch) as out, open(Path(out) / "said", "w+") as said:
        metrics = Path(out) / "run" / "metrics.jsonl"
        rest = (f"out={metrics.parent}", "evaluation.every=0", f"logging.every={LOGGED}")
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxssl", "pretrain", *words, *rest],
            env={**_environment(checkout), "JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=out,
        )
        running = os.WEXITED | os.WNOHANG | os.WNOWAIT  # what it used is asked for below
        while not (metrics.exists() and metrics.stat().st_size):
            if os.waitid(os.P_PID, process.pid, running) is not None:
                break
            time.sleep(0.01)
        first = time.perf_counter() - started
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"error: {checkout}: {said.read()[-2000:]}")
        lines = map(json.loads, metrics.read_text().splitlines())
        seconds = [line["step_seconds"] for line in lines if line["kind"] == "train"]
        step = statistics.median(seconds[1:])
        return Measured(
            step=step,
            first=first - (LOGGED - 1) * step,
            cpu=used.ru_utime + used.ru_stime,
            peak=used.ru_maxrss / 1024,  # KiB on Linux
        )
