"""The same training step twice: ours, and `transformers` on PyTorch, on equal batches."""

from dataclasses import dataclass
from typing import Any

import numpy as np

VOCABULARY, WIDTH, LAYERS, HEADS, POSITIONS = 8192, 256, 4, 4, 256
LEARNING_RATE, DROPOUT, RATE = 1e-4, 0.1, 0.15


@dataclass(frozen=True)
class Work:
    """One comparison: an objective, a batch shape and a model.

    Attributes:
      attention: our kernel.
      is_bfloat16: products are.
    """

    name: str
    rows: int
    length: int
    vocabulary: int = VOCABULARY
    width: int = WIDTH
    layers: int = LAYERS
    heads: int = HEADS
    attention_dropout: float = DROPOUT
    attention: str = "auto"
    is_bfloat16: bool = False

    @property
    def positions(self) -> int:
        """Rows of the table of positions."""
        return max(self.length, POSITIONS)


WORK = {"masked": Work("masked", 32, 128), "causal": Work("causal", 16, 256)}


def make_batch(work: Work) -> dict[str, np.ndarray]:
    """Random ids; full rows, one document each."""
    generator = np.random.default_rng(0)
    shape = (work.rows, work.length)
    batch = {
        "tokens": generator.integers(5, work.vocabulary, shape).astype(np.int32),
        "segment_ids": np.ones(shape, np.int32),
        "positions": np.tile(np.arange(work.length, dtype=np.int32), (work.rows, 1)),
        "example_id": np.stack([np.zeros(work.rows), np.arange(work.rows)], 1).astype(np.uint32),
        "epoch": np.zeros(work.rows, np.int32),
    }
    if work.name == "masked":
        batch["token_types"] = np.zeros(shape, np.int32)
    return batch


def make_program(work: Work, *, unroll: bool = True, chunk: int = 128) -> Any:
    """Our training program for this work, on all devices.

    Args:
      chunk: positions of logits at once.
    """
    from jaxssl.core.precision import Precision
    from jaxssl.core.types import Vocabulary
    from jaxssl.models.bert import BertConfig
    from jaxssl.models.gpt2 import Gpt2Config
    from jaxssl.models.model import Model
    from jaxssl.objectives.causal_lm import CausalLm
    from jaxssl.objectives.masked_lm import MaskedLm
    from jaxssl.optim.adamw import AdamW
    from jaxssl.optim.build import make_optimizer
    from jaxssl.parallel.mesh import MeshConfig, make_mesh
    from jaxssl.program.program import Program, Stream

    shape = dict(
        vocab_size=work.vocabulary,
        hidden_size=work.width,
        num_layers=work.layers,
        num_heads=work.heads,
        intermediate_size=4 * work.width,
        max_positions=work.positions,
        dropout=DROPOUT,
        attention_dropout=work.attention_dropout,
        attention=work.attention,
        unroll=unroll,
    )
    masked = work.name == "masked"
    objective: Any = MaskedLm(rate=RATE, chunk=chunk) if masked else CausalLm(chunk=chunk)
    config = BertConfig(**shape, activation="gelu") if masked else Gpt2Config(**shape)  # type: ignore[arg-type]
    optimizer, schedule = make_optimizer(AdamW(learning_rate=LEARNING_RATE), 1000, 1)
    special = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    vocabulary = Vocabulary(
        size=work.vocabulary,
        special_ids=special,
        document_end=3,
        word_starts=np.ones(work.vocabulary, bool),
    )
    precision = Precision(compute="bfloat16" if work.is_bfloat16 else "float32")
    return Program(
        model=Model(config, objective.heads, precision),
        streams=(Stream.of(objective, make_batch(work)),),
        optimizer=optimizer,
        schedule=schedule,
        vocabulary=vocabulary,
        mesh=make_mesh(MeshConfig()),
    )


class Ours:
    """Our jitted training step, masking included."""

    def __init__(self, work: Work, *, unroll: bool = True):
        import jax

        from jaxssl.parallel.mesh import batch_sharding
        from jaxssl.program.phase import Phases

        self.program = make_program(work, unroll=unroll)
        self.mesh = self.program.mesh
        self._set_mesh, self._block = jax.set_mesh, jax.block_until_ready
        with jax.set_mesh(self.mesh):
            self._phase = Phases(self.program).at(0)
            self._constants = self._phase.constants
            self._step = self._phase.step(("",))
            self.batches = {"": jax.device_put(make_batch(work), batch_sharding(self.mesh))}
        self.restart()

    def restart(self) -> None:
        """Begins again with the first state."""
        from jaxssl.program.phase import born

        with self._set_mesh(self.mesh):
            self.state = born(self._phase)

    def __call__(self) -> float:
        with self._set_mesh(self.mesh):
            self.state, metrics = self._step(self.state, self.batches, self._constants)
            self._block(self.state)
        return float(metrics["loss"])


class Theirs:
    """BertForMaskedLM or GPT2LMHeadModel, AdamW, clipping; masking done beforehand, not timed."""

    def __init__(self, work: Work):
        import torch
        import transformers

        torch.manual_seed(0)
        torch.set_num_threads(max(1, len(_affinity())))
        ids = torch.from_numpy(make_batch(work)["tokens"].astype(np.int64))
        if work.name == "masked":
            config = transformers.BertConfig(
                vocab_size=work.vocabulary,
                hidden_size=work.width,
                num_hidden_layers=work.layers,
                num_attention_heads=work.heads,
                intermediate_size=4 * work.width,
                max_position_embeddings=work.positions,
                hidden_dropout_prob=DROPOUT,
                attention_probs_dropout_prob=work.attention_dropout,
            )
            self.model: Any = transformers.BertForMaskedLM(config)
            chosen = torch.rand(ids.shape).argsort(1) < round(work.length * RATE)
            labels = torch.where(chosen, ids, -100)
            ids = torch.where(chosen, 4, ids)
        else:
            config = transformers.GPT2Config(
                vocab_size=work.vocabulary,
                n_embd=work.width,
                n_layer=work.layers,
                n_head=work.heads,
                n_positions=work.positions,
                resid_pdrop=DROPOUT,
                embd_pdrop=DROPOUT,
                attn_pdrop=work.attention_dropout,
            )
            self.model = transformers.GPT2LMHeadModel(config)
            labels = ids
        self.model.train()
        self.inputs = {"input_ids": ids, "labels": labels}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, weight_decay=0.01
        )
        self._clip = torch.nn.utils.clip_grad_norm_

    def __call__(self) -> float:
        return self.update(self.model(**self.inputs).loss)

    def update(self, loss: Any) -> float:
        """A step of the optimizer down this loss."""
        loss.backward()
        self._clip(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def _affinity() -> set[int]:
    import os

    return os.sched_getaffinity(0)
