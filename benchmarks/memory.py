"""Full [B, T, V] logits never exist: temporaries of the compiled step against their size."""

from typing import Any

from benchmarks import peers


def compiled_temporaries(name: str, chunk: int) -> int:
    """Bytes of temporaries of the compiled training step with `chunk` positions of logits at
    once."""
    import jax

    from jaxssl.program.phase import Phases

    work = peers.WORK[name]
    program = peers.make_program(work, unroll=False, chunk=chunk)
    with jax.set_mesh(program.mesh):
        phase = Phases(program).at(0)
        batches = {"": peers.make_batch(work)}
        lowered = phase.step(("",)).lower(phase.abstract, batches, phase.constants)
        compiled: Any = lowered.compile()
    return compiled.memory_analysis().temp_size_in_bytes


def run() -> None:
    """Prints the causal step's temporaries for several chunk lengths."""
    work = peers.WORK["causal"]
    full = work.rows * work.length * peers.VOCABULARY * 4
    print(f"full logits [16, 256, 8192] in float32: {full / 2**20:.0f} MiB")
    for chunk in (work.length, 64, 16):
        size = compiled_temporaries("causal", chunk)
        print(f"causal step, logits of {chunk:>3} positions at once: {size / 2**20:>6.0f} MiB")
    size = compiled_temporaries("masked", 128)
    print(f"masked step, 19 slots of 128 positions:      {size / 2**20:>6.0f} MiB")
