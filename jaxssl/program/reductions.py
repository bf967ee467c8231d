"""What it takes to sum gradients over the devices that share a batch, by the usual formulas."""

import math
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxssl.core.names import flatten
from jaxssl.core.precision import Float
from jaxssl.parallel.rules import rules_in_force
from jaxssl.program.phase import Phase
from jaxssl.program.state import parts_of
from jaxssl.program.usage import Usage

SHARED = ("batch", "sequence")
"""The logical axes over whose shards gradients are summed."""


@dataclass(frozen=True)
class Reductions:
    """The price of summing the gradients of a step.

    Attributes:
      shards: of the batch, and of its rows.
      sent: {dtype of `precision.reduce`: bytes that each device sends}, the run's own first.
      times: that they are summed in a step.
    """

    shards: int
    sent: Mapping[str, float]
    times: int = 1


def reductions(phase: Phase, drawn: Iterable[str]) -> Reductions | None:
    """The price of a step that takes these streams, which are counted as one; None where a batch is
    not shared. To be called under the run's layout.

    A sum that all of n devices get is sent twice but for the part that a device has itself: 2 (n -
    1) / n of its bytes (all-reduce). One of which each keeps a shard is sent once (reduce-scatter):
    so is reckoned what lies in shards, though XLA may sum a table whole that it looks up itself.
    What tensor parallelism sums besides, as of norms whose rows it splits, is not counted.
    """
    program, mesh = phase.program, phase.program.mesh
    axes = [axis for name in SHARED for axis in rules_in_force().axes(name)]
    summed = [axis for axis in dict.fromkeys(axes) if mesh.shape.get(axis, 1) > 1]
    if not summed:
        return None
    precision, is_reached = program.model.precision, program.is_reached(tuple(drawn))
    params = {path: x for path, x in flatten(phase.abstract.params).items() if is_reached(path)}
    usage, times = Usage(program.model), 1 if program.gathers_once else program.accumulation

    def sums(path: str, own: np.dtype, reduce: np.dtype) -> Iterable[tuple[np.dtype, bool]]:
        if program.gathers_once:
            return [(usage.sum_of_all(path, own, reduce), False)]
        return usage.sums(path, own, reduce)

    def sent(dtype: str) -> float:
        parts = [
            _sent(x, kind.itemsize, mesh, summed, is_whole)
            for path, x in params.items()
            for kind, is_whole in sums(path, x.dtype, jnp.dtype(dtype))
        ]
        return sum(parts) * times

    own = precision.reduce
    dtypes = [own, *(each for each in typing.get_args(Float) if each != own)]
    shards = math.prod(mesh.shape[axis] for axis in summed)
    return Reductions(shards, {dtype: sent(dtype) for dtype in dtypes}, times)


def _sent(x: Any, itemsize: int, mesh: Mesh, summed: Sequence[str], is_whole: bool) -> float:
    """Bytes that each device sends to sum a gradient.

    Args:
      x: shape and sharding of the parameter.
      summed: axes of the mesh whose devices have a part of the sum each.
      is_whole: each gets all of it, whatever the parameter's shards are.
    """
    split = [axis for axes in parts_of(x.sharding, x.ndim) for axis in axes]
    others = math.prod(mesh.shape[axis] for axis in split if axis not in summed)
    shards = math.prod(mesh.shape[axis] for axis in split if axis in summed and not is_whole)
    replicas = math.prod(mesh.shape[axis] for axis in summed) // shards
    size = math.prod(x.shape) * itemsize / others
    once = size * (shards - 1) / shards
    return once + 2 * size / shards * (replicas - 1) / replicas
