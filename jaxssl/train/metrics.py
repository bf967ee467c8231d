"""From sums to the numbers people read, and what a step costs in arithmetic."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxssl.core.ramp import last_of
from jaxssl.models.heads import Head
from jaxssl.models.model import ModelConfig
from jaxssl.objectives.base import Objective
from jaxssl.ops.attention.pattern import Pattern

PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,  # two devices a chip
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,  # SXM
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,  # SXM
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA B200": 2250e12,
}
"""Dense bf16 FLOP/s of one JAX device, as the chip's maker states it, by the longest beginning of
its `device_kind`."""


def finished(objective: Objective, sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    """The numbers of an objective's metrics, from their sums and weights: divided here, once."""
    numbers: dict[str, float] = {}
    for metric, (total, weight) in sums.items():
        numbers |= objective.finish(metric, total, weight)
    return numbers


def total(objective: Objective, losses: Mapping[str, Any], weights: Mapping[str, Any]) -> float:
    """The weighted total of summed losses, each by the value that its factor ends at, so that it
    compares over steps."""
    return sum(
        last_of(loss.factor) * float(losses[name]) / max(float(weights[name]), 1e-9)
        for name, loss in objective.losses.items()
    )


def token_losses(objective: Objective) -> list[str]:
    """The names of the losses in nats per token."""
    return [name for name, loss in objective.losses.items() if loss.per_token]


def language_numbers(
    objective: Objective, values: Mapping[str, float], tokens_per_byte: float | None
) -> dict[str, float]:
    """Perplexity and bits per byte of the token losses among `values`; of several, each with the
    name of its loss.

    Bits per byte are nats per token x tokens per byte of the text / ln 2, with the split's own
    ratio of tokens to bytes. For a masked model they count the guessed tokens alone, each given
    both sides.
    """
    names, numbers = token_losses(objective), {}
    for name in names:
        loss, more = values.get(loss_key(name)), f"/{name}" if len(names) > 1 else ""
        if loss is None:
            continue
        numbers[f"perplexity{more}"] = math.exp(min(loss, 700.0))
        if tokens_per_byte:
            numbers[f"bits_per_byte{more}"] = loss * tokens_per_byte / math.log(2)
    return numbers


def loss_key(name: str) -> str:
    """What a loss's mean is called among an evaluation's numbers: `loss/NAME`, after the term's
    name where it has one."""
    term, slash, own = name.rpartition("/")
    return f"{term}{slash}loss/{own}"


def step_flops(
    config: ModelConfig, heads: Sequence[Head], rows: int, length: int, labels: int
) -> float:
    """Model FLOPs of one training step, the numerator of MFU.

    By convention matrix products only, 2 per multiply-add, backward twice the forward; attention
    counted whole for a bidirectional model and half for a causal one, and in a window what is in
    it; the vocabulary projection at the `labels` positions that have a label; embedding look-ups,
    norms and recomputation not counted.
    """
    c, own, feed_forward = config, config.self_attention(), config.feed_forward()
    projections = 2 * own.head_dim * (own.num_heads + own.num_kv_heads)
    products = c.hidden_size * (projections + (2 + feed_forward.gated) * feed_forward.size)
    seen = sum(keys_seen(length, layer.pattern) for layer in own.layers)
    attention = 2 * own.num_heads * own.head_dim * seen
    width = c.embedding_width
    projected = 0 if width == c.hidden_size else width * c.hidden_size
    body = rows * length * (projected + c.stacks[0].depth * products + attention)
    over_labels = labels * sum(head.products(c) for head in heads)
    return 6.0 * (body + over_labels)


def keys_seen(length: int, pattern: Pattern) -> float:
    """How many keys a query of a row meets on average: half of them in a causal model without a
    window."""
    if pattern.window is None:
        return length * (0.5 if pattern.causal else 1.0)
    places = np.arange(length)
    behind, ahead = (np.minimum(side, pattern.window) for side in (places, places[::-1]))
    return float(np.mean(1 + behind + (0 if pattern.causal else ahead)))


def peak_flops() -> float | None:
    """Peak FLOP/s of all devices together, or None for one that is not in the table."""
    peak = device_peak(jax.devices()[0].device_kind)
    return None if peak is None else peak * jax.device_count()


def device_peak(kind: str) -> float | None:
    """Peak FLOP/s of one device of this kind, or None (for a slice of a GPU, too)."""
    known = [name for name in PEAK_FLOPS if kind.startswith(name)]
    if not known or "MIG" in kind:
        return None
    return PEAK_FLOPS[max(known, key=len)]


def add_sums(left: Any, right: Any) -> Any:
    """Sums of sums, on the host, in float64."""
    return jax.tree.map(lambda a, b: np.float64(a) + np.float64(b), left, right)
