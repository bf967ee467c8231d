"""What a partly frozen run costs, against training everything: told before it begins."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json
from jaxssl.core.types import batch_shape
from jaxssl.models.layers import unbox
from jaxssl.models.model import num_parameters
from jaxssl.ops.codes import bits_of
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.parallel.rules import use_mesh
from jaxssl.program.flops import count_flops
from jaxssl.program.phase import Phase, Phases
from jaxssl.program.program import Program, Stage
from jaxssl.program.reductions import Reductions, reductions
from jaxssl.train.encode_once import features_of
from jaxssl.transfer.start import Start, uncut

FILE_NAME = "receipt.json"


@dataclass(frozen=True)
class Cost:
    """What one training step takes, over all devices together but for memory.

    Attributes:
      trained: parameters that are trained.
      optimizer_bytes: of the optimizer's state.
      frozen_bytes: of frozen parameters as they are held, in codes or not.
      flops: of matrix products.
      memory_bytes: on each device, as compiled: parameters, optimizer state, batch, temporaries.
        None where the compiler finds that it does not fit.
    """

    trained: int
    optimizer_bytes: int
    frozen_bytes: int
    flops: float
    memory_bytes: int | None


@dataclass(frozen=True)
class Receipt:
    """The cost of a run's first stage and that of full fine-tuning, for rows of `length` tokens.

    Attributes:
      full: None where it was not asked for.
      reductions: of the run's gradients; None where its batches are not shared.
    """

    parameters: int
    rows: int
    length: int
    own: Cost
    full: Cost | None
    devices: str
    reductions: Reductions | None


def make_receipt(
    program: Program, phases: Phases, *, encodes_once: bool = False, compare_full: bool = True
) -> Receipt:
    """Counts both, and compiles both for their memory; the cache then has the run's own step. By
    turns, it is that of the stream that comes first.

    Args:
      phases: the run's.
      encodes_once: whether the run trains on features of its first stage.
      compare_full: whether to count and compile full fine-tuning, where it is another step.
    """
    drawn = program.draws.at(0)
    batches = {stream.name: stream.batch for stream in program.streams if stream.name in drawn}
    sizes = [batch_shape(batch) for batch in batches.values()]
    parameters = num_parameters(unbox(program.model.abstract()))
    own_batches = batches
    if encodes_once:
        own_batches = {name: features_of(program, x) for name, x in own_batches.items()}
    own = step_cost(phases.at(0), own_batches)
    full: Cost | None = own
    if own.trained < parameters and not compare_full:
        full = None
    elif own.trained < parameters:
        whole = dataclasses.replace(
            program, model=uncut(program.model), start=Start(), stages=(Stage(),)
        )
        with use_mesh(program.mesh):
            phase = Phases(whole).at(0)
        full = step_cost(phase, batches, may_not_fit=True)
    rows, length = sum(size[0] for size in sizes), max(size[-1] for size in sizes)
    shared = reductions(phases.at(0), drawn)
    return Receipt(parameters, rows, length, own, full, devices_of(program), shared)


def step_cost(
    phase: Phase, batches: Mapping[str, Mapping[str, Any]], *, may_not_fit: bool = False
) -> Cost:
    """The cost of one step that takes these batches, by stream.

    Args:
      may_not_fit: a step that the device has no memory for is no error.
    """
    mesh, state = phase.program.mesh, phase.abstract
    sharding = batch_sharding(mesh)

    def shaped(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    arguments = (state, jax.tree.map(shaped, batches), phase.constants)
    with use_mesh(mesh):
        step = phase.step(tuple(batches))
        flops = count_flops(step, *arguments)
        memory = _memory(step.lower(*arguments), may_not_fit)
    frozen = _bytes(state.kept) + _bytes(phase.constants.frozen)
    return Cost(num_parameters(state.params), _bytes(state.opt_state), frozen, flops, memory)


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


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * bits_of(x.dtype) // 8 for x in jax.tree.leaves(tree))


def table(receipt: Receipt) -> list[str]:
    """The receipt in a few lines."""
    own, full = receipt.own, receipt.full
    if full is None:
        own_lines = (f"  {name:<24}{_shown(x):>16}" for name, x in _numbers(own))
        return [f"  {'':<24}{'this run':>16}", *own_lines]
    lines = [f"  {'':<24}{'this run':>16}{'full':>16}{'share':>9}"]
    for (name, mine), (_, whole) in zip(_numbers(own), _numbers(full)):
        share = f"{mine / whole:.1%}" if mine is not None and whole else ""
        lines.append(f"  {name:<24}{_shown(mine):>16}{_shown(whole):>16}{share:>9}")
    return lines


def price_of_sums(receipt: Receipt) -> list[str]:
    """What summing gradients over devices takes, in a line; none where no other shares a batch."""
    if receipt.reductions is None:
        return []
    (own, bytes_own), *others = receipt.reductions.sent.items()
    times = receipt.reductions.times
    once = f"; at most 1/{times} of that with mesh.gather_once=true, where memory allows"
    return [
        f"gradients are summed over {receipt.reductions.shards:,} shards of the batch: each device "
        f"sends {bytes_own:,.0f} bytes a step with precision.reduce={own}"
        + "".join(f", {size:,.0f} with {dtype}" for dtype, size in others)
        + (once if times > 1 else "")
    ]


def _numbers(cost: Cost) -> list[tuple[str, float | None]]:
    return [
        ("trained parameters", cost.trained),
        ("optimizer state, bytes", cost.optimizer_bytes),
        ("frozen parameters, bytes", cost.frozen_bytes),
        ("FLOPs of a step", cost.flops),
        ("memory of a step, bytes", cost.memory_bytes),
    ]


def _shown(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None else "does not fit"


def read_receipt(run_dir: Path, program: Program) -> Receipt | None:
    """The receipt of a run that was started before on the same devices, or None."""
    path = run_dir / FILE_NAME
    if not path.is_file():
        return None
    try:
        receipt = read_json(path, Receipt, what="the receipt is damaged", fix="delete it")
    except UserError:  # of another version, or damaged: it is made again
        return None
    return receipt if receipt.devices == devices_of(program) else None


def devices_of(program: Program) -> str:
    """The devices that a step's memory was counted for."""
    shape = ", ".join(f"{name}={size}" for name, size in program.mesh.shape.items())
    return f"{jax.device_count()} {jax.devices()[0].device_kind} ({shape})"


def write_receipt(run_dir: Path, receipt: Receipt) -> None:
    """Writes `receipt.json`."""
    with atomic_write(run_dir / FILE_NAME) as file:
        json.dump(dataclasses.asdict(receipt), file, indent=1)
