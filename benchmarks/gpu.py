"""A training step on one GPU: GPT-2 small and BERT base in bfloat16 with cuDNN's attention, beside
the same models of `transformers` compiled by PyTorch, and whether a run gives the same bits twice.

Each measurement is a process of its own, for each library takes the GPU's memory for itself. A step
is timed with what comes before and after it, as a loop would. Both sides drop hidden states and no
attention's weights. Ours tells the documents of a row apart, by a mask; the peer has none.

MFU is by `step_flops`, in which logits of tokens without a label do not count, and by the peak that
the GPU's maker states (`jaxssl.train.metrics.PEAK_FLOPS`). All of it takes 8 minutes at most: what
does not fit is left out, and told.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import peers
from benchmarks.machine import refuse_if_loaded, spread
from benchmarks.steps import HERE

LIMIT = 480.0
"""Seconds, of all."""
ROUNDS, CALLS, WARM_UP, COMPARED = 5, 10, 3, 5
TRIED = 2
"""Rounds, and calls, of a trial, which has as much time as it needs."""
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
BASE: dict[str, Any] = dict(width=768, layers=12, heads=12, attention_dropout=0.0, is_bfloat16=True)
WORK = {
    "causal": peers.Work("causal", 32, 1024, vocabulary=50304, attention="cudnn", **BASE),
    "masked": peers.Work("masked", 64, 512, vocabulary=30522, attention="cudnn", **BASE),
}
TINY: dict[str, Any] = dict(
    rows=2, length=64, vocabulary=512, width=64, layers=1, heads=2, attention="auto"
)


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
      side: "ours" or "theirs".
      attention: our kernel; None is that of the work.
      flags: of XLA.
    """

    work: str
    side: str
    attention: str | None = None
    flags: str = ""

    @property
    def name(self) -> str:
        """What its row is called."""
        if self.side == "theirs":
            return "transformers, compiled"
        return "ours, deterministic" if self.flags else "ours"


RUNS = (
    Run("causal", "ours"),
    Run("causal", "theirs"),
    Run("masked", "ours"),
    Run("masked", "theirs"),
    Run("causal", "ours", flags=DETERMINISTIC),
    Run("causal", "ours", flags=DETERMINISTIC),
    Run("causal", "ours", attention="xla"),
)


def run(is_trial: bool = False) -> None:
    """Prints a row for each process, and what of it was the same to the bit.

    Exits with code 2 where JAX finds no NVIDIA GPU.

    Args:
      is_trial: tiny models on the CPU, to see that it runs through.
    """
    end = time.perf_counter() + (3600.0 if is_trial else LIMIT)
    kind = "cpu" if is_trial else _gpu()
    if kind is None:
        print("error: JAX finds no NVIDIA GPU on this machine", file=sys.stderr)
        sys.exit(2)
    if not is_trial:
        refuse_if_loaded()
    print(f"{kind}{' (a trial: its times say nothing)' if is_trial else ''}")
    print(
        f"{'work':<18}{'side':<24}{'tok/s':>11}{'spread':>12}{'MFU':>7}{'peak GiB':>10}"
        f"{'first step s':>14}  attention"
    )
    found: list[tuple[Run, dict[str, Any]]] = []
    for each in RUNS:
        made = _measured(each, is_trial, end - time.perf_counter())
        print(_row(each, made, _work(each, is_trial), kind, found), flush=True)
        found.append((each, made))
    print("\n".join(_bits(found)))
    if any("why" in made for _, made in found):
        sys.exit(1)


def _gpu() -> str | None:
    """The kind of the first GPU that JAX has, or None."""
    words = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    done = subprocess.run(words, env=_environment(False), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def _environment(is_trial: bool, flags: str = "") -> dict[str, str]:
    """Of a process: one GPU, or none."""
    ours = {**os.environ, "JAX_PLATFORMS": "cpu" if is_trial else "cuda"}
    ours["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    ours["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    ours.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return ours


def _work(each: Run, is_trial: bool) -> peers.Work:
    work = WORK[each.work]
    if is_trial:
        return replace(work, **TINY)
    return replace(work, attention=each.attention or work.attention)


def _measured(each: Run, is_trial: bool, left: float) -> dict[str, Any]:
    """What a process measured, or why it did not."""
    if left < 20:
        return {"why": "no time was left"}
    words = [sys.executable, "-m", "benchmarks.gpu", str(RUNS.index(each)), str(int(is_trial))]
    try:
        done = subprocess.run(
            words,
            env=_environment(is_trial, each.flags),
            cwd=HERE,
            stdout=subprocess.PIPE,
            text=True,
            timeout=left,
        )
    except subprocess.TimeoutExpired:
        return {"why": "it was not done in time"}
    if done.returncode:
        return {"why": f"it failed with code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def _row(
    each: Run,
    made: dict[str, Any],
    work: peers.Work,
    kind: str,
    before: list[tuple[Run, dict[str, Any]]],
) -> str:
    """A line of the table. FLOPs are those of our model of the same work."""
    from jaxssl.train.metrics import device_peak

    begin = f"{f'{work.name} {work.rows}x{work.length}':<18}{each.name:<24}"
    if "why" in made:
        return begin + made["why"]
    seconds, peak = statistics.median(made["seconds"]), device_peak(kind)
    flops = [x["flops"] for run, x in [*before, (each, made)] if run.work == each.work]
    mfu = f"{flops[0] / seconds / peak:.0%}" if peak and flops and flops[0] else "-"
    memory = f"{made['memory'] / 2**30:.1f}" if made["memory"] else "-"
    return (
        f"{begin}{work.rows * work.length / seconds:>11,.0f}{spread(made['seconds']):>12}{mfu:>7}"
        f"{memory:>10}{made['first']:>14.1f}  {made['attention']}"
    )


def _bits(found: list[tuple[Run, dict[str, Any]]]) -> list[str]:
    """Whether the states after some steps were the same, of runs that began alike."""
    digests: dict[tuple[str, str], list[str]] = {}
    for each, made in found:
        if each.side == "ours" and each.attention is None and "digests" in made:
            digests.setdefault((each.work, each.flags), []).extend(made["digests"])
    return [
        f"{work}{' ' + flags if flags else ''}, {COMPARED} steps {len(those)} times, in "
        f"{len(those) // 2} process{'es' if len(those) > 2 else ''}: "
        + ("the same bits" if len({*those}) == 1 else f"{len({*those})} different results")
        for (work, flags), those in digests.items()
    ]


# --- In a process of its own ----------------------------------------------------------------------


def _timed(call: Callable[[], float], is_trial: bool) -> dict[str, Any]:
    """Seconds of the first call, and of a call in each round."""
    started = time.perf_counter()
    call()
    first, seconds = time.perf_counter() - started, []
    rounds, calls = (TRIED, TRIED) if is_trial else (ROUNDS, CALLS)
    for _ in range(WARM_UP):
        call()
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        seconds.append((time.perf_counter() - started) / calls)
    return {"first": first, "seconds": seconds}


def _ours(work: peers.Work, is_trial: bool) -> dict[str, Any]:
    import jax

    from jaxssl.train.metrics import step_flops

    side = peers.Ours(work, unroll=False)
    made = _timed(side, is_trial)
    memory = jax.local_devices()[0].memory_stats() or {}
    model, (stream,) = side.program.model, side.program.streams
    labels = work.length if work.name == "causal" else round(work.length * peers.RATE)
    labels *= work.rows
    return {
        **made,
        "attention": model.config.attention_told(work.length, model.precision),
        "memory": memory.get("peak_bytes_in_use"),
        "flops": step_flops(model.config, stream.objective.heads, work.rows, work.length, labels),
        "digests": [_digest(side) for _ in range(2)],
    }


def _digest(side: peers.Ours) -> str:
    """Of the state after some steps from the first one."""
    import jax
    import numpy as np

    side.restart()
    for _ in range(COMPARED):
        side()
    made = hashlib.sha256()
    for leaf in jax.tree.leaves(side.state):
        made.update(np.asarray(leaf).tobytes())
    return made.hexdigest()


class Compiled(peers.Theirs):
    """The peer in bfloat16, compiled, with PyTorch's own attention."""

    def __init__(self, work: peers.Work, device: str):
        import torch

        super().__init__(work)
        assert self.model.config._attn_implementation == "sdpa"
        self.model.to(device)
        self.inputs = {name: x.to(device) for name, x in self.inputs.items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), peers.LEARNING_RATE, weight_decay=0.01, fused=True
        )
        # A trial leaves out Inductor, which would take minutes on a CPU.
        self.model = torch.compile(self.model, backend="eager" if device == "cpu" else "inductor")
        self._half = lambda: torch.autocast(device, torch.bfloat16)

    def __call__(self) -> float:
        with self._half():
            loss = self.model(**self.inputs).loss
        return self.update(loss)


def _theirs(work: peers.Work, is_trial: bool) -> dict[str, Any]:
    import torch

    if not is_trial and not torch.cuda.is_available():
        return {"why": "torch sees no GPU"}
    made = _timed(Compiled(work, "cpu" if is_trial else "cuda"), is_trial)
    memory = None if is_trial else torch.cuda.max_memory_allocated()
    return {**made, "memory": memory, "flops": None, "attention": "sdpa"}


def _child(number: str, is_trial: str) -> dict[str, Any]:
    each, trial = RUNS[int(number)], bool(int(is_trial))
    measure = _theirs if each.side == "theirs" else _ours
    return measure(_work(each, trial), trial)


if __name__ == "__main__":
    print(json.dumps(_child(*sys.argv[1:])))
