"""What a step takes on each chip of a slice, compiled for it."""

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxssl.core.errors import UserError
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.plan.hlo import read_costs
from jaxssl.plan.topology import Chip
from jaxssl.program.phase import Phases
from jaxssl.program.program import Program


@dataclass(frozen=True)
class Estimate:
    """Of one step, for each chip.

    Attributes:
      seconds: the compiler's own estimate, without collectives and Pallas calls.
      wire: bytes that it sends, by kind of collective.
      messages: collectives, by kind.
      kernels: Pallas calls, by name.
      arguments: bytes of parameters, optimizer state and batch.
      temporaries: bytes besides.
    """

    seconds: float
    wire: Mapping[str, float]
    messages: Counter[str]
    kernels: Counter[str]
    arguments: int
    temporaries: int

    @property
    def sent(self) -> float:
        """Bytes of all collectives."""
        return sum(self.wire.values())


@dataclass(frozen=True)
class Compiled:
    """A step for devices that are not there.

    Attributes:
      memory: what JAX tells of its memory.
      text: the scheduled HLO, as the compiler wrote it down.
    """

    memory: Any
    text: str


def compile_step(program: Program) -> Compiled:
    """The first step of a program, compiled for the devices of its mesh; to be called under its
    layout.

    Raises:
      UserError: it does not fit in the chips' memory.
    """
    phase = Phases(program).at(0)
    drawn = tuple(program.draws.at(0))
    sharding = batch_sharding(program.mesh)

    def shaped(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    streams = [stream for stream in program.streams if stream.name in drawn]
    batches = {stream.name: jax.tree.map(shaped, dict(stream.batch)) for stream in streams}
    lowered = phase.step(drawn).lower(phase.abstract, batches, phase.constants)
    try:
        return _compile(lowered, dict(program.compiler))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        lines = [line.strip() for line in str(error).splitlines() if "required" in line]
        raise UserError(
            "the step does not fit in the memory of a chip",
            where="mesh, data.batch_size, model.remat",
            expected="less",
            got=(lines or [str(error)])[0][:300],
            fix="split over more chips (mesh.fsdp), set model.remat=full, or take fewer rows",
        ) from error


def _compile(lowered: Any, options: dict[str, Any]) -> Compiled:
    # The compiler writes its text to files: an older jaxlib cannot read back what libtpu made where
    # fusions are asynchronous.
    with tempfile.TemporaryDirectory() as folder:
        options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        compiled = lowered.compile(compiler_options=options)
        (file,) = Path(folder).glob("*.after_codegen.txt")
        return Compiled(compiled.memory_analysis(), file.read_text())


def estimate(compiled: Compiled, chip: Chip) -> Estimate:
    """What a compiled step takes."""
    costs, memory = read_costs(compiled.text), compiled.memory
    return Estimate(
        seconds=costs.cycles / chip.clock,
        wire=dict(costs.wire),
        messages=costs.messages,
        kernels=costs.kernels,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
    )


def attention_seconds(
    chip: Chip,
    *,
    rows: int,
    length: int,
    heads: int,
    head_dim: int,
    seen: float,
    shards: int = 1,
) -> float:
    """The least that attention of a training step takes on a chip: its products at the peak.

    Two products forward, which run twice where the layer is computed again, and five backward, each
    of 2 x length^2 x head_dim FLOPs.

    Args:
      rows: of a chip.
      heads: of a chip.
      seen: share of the keys that a query sees, added up over layers.
      shards: that the queries of a row lie in, shared out evenly.
    """
    products = 2 * 2 + 5
    flops = products * 2 * rows * heads * head_dim * math.pow(length, 2) * seen
    return flops / shards / chip.peak
