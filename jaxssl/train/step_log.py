"""What is written down of training steps: means of losses, speed, and how well chips are used."""

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxssl.models.model import num_parameters
from jaxssl.program.program import Program, Stream
from jaxssl.train import metrics
from jaxssl.train.feeds import Feeds
from jaxssl.train.learner import Learner


class StepLog:
    """Counts tokens and time between rows of metrics.

    Attributes:
      tokens: trained on so far, padding left out.
      by_stream: the same of each stream, where there are several.
    """

    def __init__(self, program: Program, feeds: Feeds, learner: Learner, noted: Mapping[str, Any]):
        self._program, self._learner = program, learner
        self._per_epoch = {name: max(1, feed.per_epoch) for name, feed in feeds.streams.items()}
        self._learning_rate = jax.jit(program.schedule)  # else each of its operations is compiled
        self._streams = {stream.name: stream for stream in program.streams}
        self._latest: dict[str, dict[str, Any]] = {}
        self._rows = self._places = 0
        self.take(noted)
        self.start(0)

    def take(self, noted: Mapping[str, Any]) -> None:
        """Counts on from what a checkpoint noted."""
        self.tokens: int = noted.get("tokens", 0)
        self.by_stream: dict[str, int] = dict(noted.get("tokens_by_stream", {}))

    def start(self, step: int) -> float:
        """Counts seconds and tokens of a step from now on."""
        now = time.perf_counter()
        self._since = (now, step, self.tokens, self._rows, self._places)
        return now

    def add(self, out: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Counts a finished step; `shapes` are those of its tokens by stream, padding included."""
        for name, logged in out["streams"].items():
            self._latest[name] = logged
            self.tokens += int(logged["tokens"])
            self.by_stream[name] = self.by_stream.get(name, 0) + int(logged["tokens"])
            self._rows += shapes[name][0]
            self._places += int(np.prod(shapes[name]))

    def row(
        self, step: int, out: dict[str, Any], skipped: int, left_out: int = 0
    ) -> dict[str, float]:
        """The numbers of a step, of each stream those of its last batch since the row before, and
        the speed since then.

        Args:
          left_out: batches before it that were left out after a step that was not finite.
        """
        then, since, tokens_before, rows_before, places_before = self._since
        latest, self._latest = self._latest, {}
        now = self.start(step)
        steps = max(1, step - since)
        # A clock that stands still, of a virtual machine say, must not end a run.
        seconds, tokens = max(now - then, 1e-9) / steps, (self.tokens - tokens_before) / steps
        rows, places = self._rows - rows_before, self._places - places_before
        return {
            "tokens": self.tokens,
            "loss": float(out["loss"]),
            **self._numbers(latest),
            **self._epochs(step + left_out),
            **({"penalty": float(out["penalty"])} if "penalty" in out else {}),
            "learning_rate": float(self._learning_rate(step - 1 - skipped)),
            "grad_norm": float(out["grad_norm"]),
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds,
            **self._mfu(latest, rows / steps, places / max(1, rows), seconds),
        }

    def _numbers(self, latest: Mapping[str, dict[str, Any]]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for name, logged in latest.items():
            own = metrics.finished(self._streams[name].objective, logged["sums"])
            if name:
                own |= {"loss": float(logged["loss"]), "tokens": self.by_stream[name]}
            numbers |= {f"{name}/{key}" if name else key: value for key, value in own.items()}
        return numbers

    def _epochs(self, number: int) -> dict[str, float]:
        """`STREAM/epoch` after so many batches: passes over the data of each of several streams."""
        taken = self._program.draws.before(number)
        return {f"{x}/epoch": taken[x] / each for x, each in self._per_epoch.items() if x}

    def _mfu(
        self, latest: Mapping[str, dict[str, Any]], rows: float, length: float, seconds: float
    ) -> dict[str, float]:
        peak = metrics.peak_flops()
        if peak is None or self._learner.num_trained < num_parameters(self._learner.params):
            return {}  # the convention counts a whole backward pass
        if self._program.model.config.encoder_decoder:
            return {}  # and rows with one side
        labels = [_labels(self._streams[name], logged) for name, logged in latest.items()]
        share = len(self._program.draws.at(0)) / max(1, len(labels))  # of the streams in a step
        size = (round(rows), round(length), round(sum(labels) * share))
        networks = self._program.model.networks.values()
        flops = sum(metrics.step_flops(each.config, each.heads, *size) for each in networks)
        return {"mfu": flops / seconds / peak}


def _labels(stream: Stream, logged: Mapping[str, Any]) -> int:
    """Positions whose logits over the vocabulary a step computed; a task's head is next to nothing,
    and not counted."""
    names = metrics.token_losses(stream.objective)
    return int(max((float(logged["weights"][name]) for name in names), default=0.0))


def progress_texts(row: dict[str, float]) -> dict[str, str]:
    """What the progress bar says of a row."""
    texts = {"loss": f"{row['loss']:.3f}", "tok/s": f"{row['tokens_per_second']:,.0f}"}
    return texts | ({"mfu": f"{row['mfu']:.1%}"} if "mfu" in row else {})
