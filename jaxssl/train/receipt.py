"""What a partly frozen run costs, against training everything: told before it begins."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.core.files import atomic_write
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.models.layers import unbox
from jaxssl.models.model import num_parameters
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.train.encode_once import features_of
from jaxssl.train.flops import count_flops
from jaxssl.train.phase import Phases
from jaxssl.train.settings import Parts, Stage, TrainConfig
from jaxssl.train.state import State, laid_out
from jaxssl.transfer.start import Start, uncut

FILE_NAME = "receipt.json"


@dataclass(frozen=True)
class Cost:
    """What one training step takes, over all devices together but for memory.

    Attributes:
      trained: parameters that are trained.
      optimizer_bytes: of the optimizer's state.
      flops: of matrix products.
      memory_bytes: on each device, as compiled: parameters, optimizer state, batch, temporaries.
        None where the compiler finds that it does not fit.
    """

    trained: int
    optimizer_bytes: int
    flops: float
    memory_bytes: int | None


@dataclass(frozen=True)
class Receipt:
    """The cost of a run's first stage and that of full fine-tuning, for rows of `length` tokens."""

    parameters: int
    rows: int
    length: int
    own: Cost
    full: Cost


def make_receipt(
    parts: Parts, train: TrainConfig, phases: Phases, batch: Mapping[str, np.ndarray]
) -> Receipt:
    """Counts both, and compiles both for their memory; the cache then has the run's own step.

    Args:
      phases: the run's.
      batch: rows of the longest kind.
    """
    rows, length = batch["tokens"].shape
    parameters = num_parameters(unbox(parts.model.abstract()))
    own_batch = features_of(parts, batch) if parts.encodes_once else batch
    own = step_cost(parts, phases, own_batch)
    full = own
    if own.trained < parameters:
        whole = dataclasses.replace(
            parts, model=uncut(parts.model), start=Start(), stages=(Stage(),), encodes_once=False
        )
        full = step_cost(whole, Phases(whole, train), batch, may_not_fit=True)
    return Receipt(parameters, rows, length, own, full)


def step_cost(
    parts: Parts, phases: Phases, batch: Mapping[str, Any], *, may_not_fit: bool = False
) -> Cost:
    """The cost of one step of the first stage.

    Args:
      may_not_fit: a step that the device has no memory for is no error.
    """
    sharding = batch_sharding(parts.mesh)
    shaped = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    with jax.set_mesh(parts.mesh):
        phase = phases.at(0)
        state = phase.abstract
        beside = _beside(parts, state)
        arguments = (state, {name: shaped(x) for name, x in batch.items()}, *beside)
        flops = count_flops(phase.step, *arguments)
        memory = _memory(phase.step.lower(*arguments), may_not_fit)
    return Cost(num_parameters(state.params), _bytes(state.opt_state), flops, memory)


def _memory(lowered: Any, may_not_fit: bool) -> int | None:
    """What the compiled program takes on each device, in bytes.

    A TPU's compiler refuses what does not fit; others let it run out of memory later.
    """
    try:
        found = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if may_not_fit and "RESOURCE_EXHAUSTED" in str(error):
            return None
        raise
    used = found.argument_size_in_bytes - found.alias_size_in_bytes
    return used + found.output_size_in_bytes + found.temp_size_in_bytes


def _beside(parts: Parts, state: State) -> tuple[Params, Params]:
    """Shapes of what the step is given beside the state: frozen parameters, anchors."""
    leaves = flatten(laid_out(parts.model.abstract(), parts.mesh))
    own = {**flatten(state.params), **flatten(state.kept)}
    frozen = {path: leaf for path, leaf in leaves.items() if path not in own}
    needed = parts.regularization.needs_anchors
    trained = flatten(state.params) if needed else {}
    is_anchored = lambda path: parts.start.has_source(path, parts.model.config.num_layers)
    anchors = {path: leaf for path, leaf in trained.items() if is_anchored(path)}
    return unflatten(frozen), unflatten(anchors)


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def table(receipt: Receipt) -> list[str]:
    """The receipt in a few lines."""
    own, full = receipt.own, receipt.full
    rows: Sequence[tuple[str, float | None, float | None]] = (
        ("trained parameters", own.trained, full.trained),
        ("optimizer state, bytes", own.optimizer_bytes, full.optimizer_bytes),
        ("FLOPs of a step", own.flops, full.flops),
        ("memory of a step, bytes", own.memory_bytes, full.memory_bytes),
    )
    lines = [f"  {'':<24}{'this run':>16}{'full':>16}{'share':>9}"]
    for name, mine, whole in rows:
        shown = [f"{x:,.0f}" if x is not None else "does not fit" for x in (mine, whole)]
        share = f"{mine / whole:.1%}" if mine is not None and whole is not None else ""
        lines.append(f"  {name:<24}{shown[0]:>16}{shown[1]:>16}{share:>9}")
    return lines


def write_receipt(run_dir: Path, receipt: Receipt) -> None:
    """Writes `receipt.json`."""
    with atomic_write(run_dir / FILE_NAME) as file:
        json.dump(dataclasses.asdict(receipt), file, indent=1)
