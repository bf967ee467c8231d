"""Full [B, T, V] logits never exist: temporaries of the compiled step against their size."""

from typing import Any

from benchmarks import peers


def compiled_temporaries(name: str, chunk: int) -> int:
    """Bytes of temporaries of the compiled training step with `chunk` positions of logits at
    once."""
    import dataclasses

    import jax

    from jaxssl.train.state import make_init
    from jaxssl.train.step import make_train_step

    work = peers.WORK[name]
    model, objective, optimizer, vocabulary = peers.parts(work)
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, unroll=False))
    objective = dataclasses.replace(objective, chunk=chunk)
    step = make_train_step(model, objective, optimizer, vocabulary, seed=0)
    import flax.linen as nn

    state = nn.unbox(jax.eval_shape(make_init(model, optimizer), jax.random.key(0)))
    compiled: Any = jax.jit(step, donate_argnums=0).lower(state, peers.make_batch(work)).compile()
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
