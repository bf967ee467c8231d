"""Tokens per second of greedy writing: ours against `transformers` on PyTorch, on this CPU, and the
share of the memory's bandwidth that ours reaches."""

import os
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import interleave, ratio, spread

PROMPT, NEW = 32, 128
ROUNDS, WARM_UP = 5, 1
VOCABULARY = 8192


@dataclass(frozen=True)
class Work:
    """A model, how many texts are written at once, and the ratio that is asked for."""

    name: str
    rows: int
    target: float


WORK = (
    Work("4 x 256", 1, 2.0),
    Work("4 x 256", 16, 1.3),
    Work("GPT-2 small", 1, 1.1),
    Work("GPT-2 small", 16, 1.1),
    Work("T5 small", 1, 1.1),
    Work("T5 small", 16, 1.1),
)


def run() -> None:
    """Prints a row for each model and batch."""
    bandwidth = read_bandwidth()
    print(f"prompts of {PROMPT} tokens, {NEW} new ones, float32; {os.cpu_count()} cores")
    print(f"memory: {bandwidth / 1e9:.1f} GB/s read")
    head = f"{'work':<18}{'ours tok/s':>11}{'spread':>13}{'torch tok/s':>12}{'spread':>13}"
    print(head + f"{'ratio':>7}{'range':>12}{'target':>8}{'bandwidth':>10}{'cache MB':>10}")
    for work in WORK:
        theirs = Theirs(work)
        sides: dict[str, Any] = {"ours": Ours(work), "theirs": theirs}
        for side in sides.values():
            for _ in range(WARM_UP):
                side()
        samples = interleave(sides, ROUNDS, 1)
        tokens = work.rows * NEW
        speed = {side: tokens / statistics.median(times) for side, times in samples.items()}
        middle, low, high = ratio(samples["ours"], samples["theirs"])
        read = sides["ours"].bytes_a_step * NEW / statistics.median(samples["ours"])
        print(
            f"{f'{work.name}, {work.rows}':<18}{speed['ours']:>11,.0f}{spread(samples['ours']):>13}"
            f"{speed['theirs']:>12,.0f}{spread(samples['theirs']):>13}{middle:>7.2f}"
            f"{f'{low:.2f}..{high:.2f}':>12}{work.target:>8.1f}{read / bandwidth:>10.0%}"
            f"{sides['ours'].cache_bytes / 1e6:>10.1f}",
            flush=True,
        )


def read_bandwidth(megabytes: int = 512, rounds: int = 5) -> float:
    """Bytes a second that all cores read together, at best."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    numbers = torch.ones(megabytes << 18)
    best = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - start)
    return numbers.nbytes / best


class Ours:
    """`generate` on a model of random parameters."""

    def __init__(self, work: Work):
        import jax

        from jaxssl.generate.decode import generate
        from jaxssl.generate.settings import Sampling
        from jaxssl.models.gpt2 import Gpt2Config
        from jaxssl.models.heads import CAUSAL_LM
        from jaxssl.models.layers import unbox
        from jaxssl.models.model import Model
        from jaxssl.models.t5 import T5Config

        small = dict(vocab_size=VOCABULARY, hidden_size=256, num_layers=4, num_heads=4)
        configs = {
            "4 x 256": lambda: Gpt2Config(**small, intermediate_size=1024, max_positions=256),  # type: ignore[arg-type]
            "GPT-2 small": Gpt2Config,
            "T5 small": T5Config,
        }
        config: Any = configs[work.name]()
        is_t5 = work.name == "T5 small"
        self.model = Model(config, (CAUSAL_LM,))
        self.params = unbox(jax.jit(self.model.init)(jax.random.key(0)))
        self.prompts = list(prompts(work, config.vocab_size))
        self._write, self.sampling = generate, Sampling(temperature=0.0, max_new_tokens=NEW)

        table = self.params["embeddings"]["tokens"]["embedding"].nbytes
        whole = sum(x.nbytes for x in jax.tree.leaves(self.params))
        slots = PROMPT + NEW
        cache = jax.eval_shape(
            lambda: self.model.empty_cache(work.rows, slots, PROMPT if is_t5 else None)
        )
        self.cache_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
        encoder = sum(x.nbytes for x in jax.tree.leaves(self.params["encoder"])) if is_t5 else 0
        positions = self.params["embeddings"].get("positions", {})
        unread = encoder + sum(x.nbytes for x in jax.tree.leaves(positions))
        assert table < whole
        self.bytes_a_step = whole - unread + self.cache_bytes

    def __call__(self) -> None:
        made = self._write(self.model, self.params, self.prompts, self.sampling, [])
        assert all(len(text.tokens) == NEW for text in made)


class Theirs:
    """`GPT2LMHeadModel` or `T5ForConditionalGeneration`, its own `generate`."""

    def __init__(self, work: Work):
        import torch
        import transformers

        torch.manual_seed(0)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        if work.name == "T5 small":
            config: Any = transformers.T5Config(decoder_start_token_id=0)
            self.model: Any = transformers.T5ForConditionalGeneration(config)
        else:
            small = dict(n_embd=256, n_layer=4, n_head=4, n_positions=256, vocab_size=VOCABULARY)
            config = transformers.GPT2Config(**({} if work.name == "GPT-2 small" else small))
            self.model = transformers.GPT2LMHeadModel(config)
        self.model.eval()
        self.ids = torch.from_numpy(prompts(work, config.vocab_size).astype(np.int64))

    def __call__(self) -> None:
        made = self.model.generate(
            self.ids,
            attention_mask=self.ids.new_ones(self.ids.shape),
            do_sample=False,
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            pad_token_id=0,
        )
        assert made.shape[1] >= NEW


def prompts(work: Work, vocabulary: int) -> np.ndarray:
    """Random ids [B, P]."""
    shape = (work.rows, PROMPT)
    return np.random.default_rng(0).integers(5, vocabulary, shape).astype(np.int32)
