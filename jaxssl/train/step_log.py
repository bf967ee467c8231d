"""What is written down of training steps: means of losses, speed, and how well chips are used."""

import time
from typing import Any

import numpy as np

from jaxssl.models.model import num_parameters
from jaxssl.objectives.names import TOKEN_LOSSES
from jaxssl.train import metrics
from jaxssl.train.learner import Learner
from jaxssl.train.settings import Parts, Settings


class StepLog:
    """Counts tokens and time between rows of metrics.

    Attributes:
      tokens: trained on so far, padding left out.
    """

    def __init__(self, parts: Parts, settings: Settings, learner: Learner, tokens: int):
        self._parts, self._settings, self._learner = parts, settings, learner
        self.tokens = tokens
        self._places = 0
        self.start(0)

    def start(self, step: int) -> float:
        """Counts seconds and tokens of a step from now on."""
        now = time.perf_counter()
        self._since = (now, step, self.tokens, self._places)
        return now

    def add(self, out: dict[str, Any], places: int) -> None:
        """Counts a finished step, of so many places for tokens, those of padding included."""
        self.tokens += int(out["tokens"])
        self._places += places

    def row(self, step: int, out: dict[str, Any], skipped: int) -> dict[str, float]:
        """The numbers of a step, and the speed since the last row."""
        then, since, tokens_before, places_before = self._since
        now = self.start(step)
        steps = max(1, step - since)
        seconds, tokens = (now - then) / steps, (self.tokens - tokens_before) / steps
        return {
            "tokens": self.tokens,
            "loss": float(out["loss"]),
            **metrics.ratios(out["sums"]),
            "learning_rate": float(np.asarray(self._parts.schedule(step - 1 - skipped))),
            "grad_norm": float(out["grad_norm"]),
            "tokens_per_second": tokens / seconds,
            "step_seconds": seconds,
            **self._mfu(out, (self._places - places_before) / steps, seconds),
        }

    def _mfu(self, out: dict[str, Any], places: float, seconds: float) -> dict[str, float]:
        peak = metrics.peak_flops()
        params = self._learner.params
        if peak is None or self._learner.num_trained < num_parameters(params):
            return {}  # the convention counts a whole backward pass
        rows = self._settings.data.batch_size
        labels = [
            float(out["sums"][f"nll/{name}"][1])
            for name in TOKEN_LOSSES
            if f"nll/{name}" in out["sums"]
        ]  # a task's head is next to nothing, and not counted
        config, length = self._parts.model.config, round(places / rows)
        flops = metrics.step_flops(config, params, rows, length, int(max(labels, default=0)))
        return {"mfu": flops / seconds / peak}


def shown(row: dict[str, float]) -> dict[str, str]:
    """What the progress bar says of a row."""
    texts = {"loss": f"{row['loss']:.3f}", "tok/s": f"{row['tokens_per_second']:,.0f}"}
    return texts | ({"mfu": f"{row['mfu']:.1%}"} if "mfu" in row else {})
