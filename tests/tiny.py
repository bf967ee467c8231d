"""Tiny models, batches and meshes that the tests share."""

import functools

import jax
import numpy as np
import optax

from jaxssl.core.names import flatten
from jaxssl.core.precision import Precision
from jaxssl.core.types import Vocabulary
from jaxssl.models.bert import BertConfig
from jaxssl.models.electra import ElectraConfig
from jaxssl.models.gpt2 import Gpt2Config
from jaxssl.models.layers import is_boxed, unbox
from jaxssl.models.model import Model
from jaxssl.parallel.mesh import MeshConfig, batch_sharding, make_mesh
from jaxssl.parallel.rules import Rules, use_layout
from jaxssl.program.phase import Phases, born
from jaxssl.program.program import Program, Stream

VOCAB = 40
SPECIALS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
FIRST_WORD = 5
FLOAT64 = Precision(parameters="float64", compute="float64", reduce="float64")  # type: ignore

SHAPE = dict(vocab_size=VOCAB, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32)
NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0)


def vocabulary(size=VOCAB, word_starts=None) -> Vocabulary:
    starts = np.ones(size, bool) if word_starts is None else word_starts
    return Vocabulary(size=size, special_ids=SPECIALS, document_end=3, word_starts=starts)


WORDS = vocabulary()


def bert(**changes) -> BertConfig:
    return BertConfig(**{**SHAPE, "max_positions": 32, **NO_DROPOUT, **changes})


def electra(**changes) -> ElectraConfig:
    """With embeddings narrower than the hidden states."""
    narrow = {"embedding_size": 8, "max_positions": 32}
    return ElectraConfig(**{**SHAPE, **narrow, **NO_DROPOUT, **changes})


def gpt2(**changes) -> Gpt2Config:
    return Gpt2Config(**{**SHAPE, "max_positions": 32, **NO_DROPOUT, **changes})


def random_params(model: Model, seed: int = 0, scale: float = 0.15):
    """Parameters with every leaf random, biases and norms too; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        centre = 1.0 if path[-1].key == "scale" else 0.0
        return (centre + scale * rng.standard_normal(shape.shape)).astype(shape.dtype)

    return jax.tree.map_with_path(leaf, unbox(model.abstract()))


def rows(documents, row_lengths=None, *, length=None, count=None) -> dict[str, np.ndarray]:
    """A batch of `documents` (rows, each a list of id arrays), padded to [count, length]."""
    length = length or max(sum(map(len, row)) for row in documents)
    count = count or len(documents)
    tokens, segments, positions = np.zeros((3, count, length), np.int32)
    for i, row in enumerate(documents):
        at = 0
        for number, document in enumerate(row, start=1):
            part = slice(at, at + len(document))
            tokens[i, part], segments[i, part] = document, number
            positions[i, part] = np.arange(len(document))
            at += len(document)
    ids = np.stack([np.zeros(count), np.arange(count)], axis=1).astype(np.uint32)
    return {
        "tokens": tokens,
        "segment_ids": segments,
        "positions": positions,
        "example_id": ids,
        "epoch": np.zeros(count, np.int32),
    }


def random_documents(lengths, seed=0):
    """One array of word ids per length."""
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_WORD, VOCAB, n).astype(np.int32) for n in lengths]


def pack(documents, length):
    """First-fit rows of documents, none longer than `length`."""
    packed: list[list] = []
    for document in documents:
        for row in packed:
            if sum(map(len, row)) + len(document) <= length:
                row.append(document)
                break
        else:
            packed.append([document])
    return packed


@functools.cache
def mesh(data=1, fsdp=1, tensor=1, context=1):
    """A mesh over the first `data * fsdp * context * tensor` simulated devices."""
    config = MeshConfig(data=data, fsdp=fsdp, context=context, tensor=tensor)
    return make_mesh(config, jax.devices()[: data * fsdp * context * tensor])


def corrupted(objective, batch, seed=0, vocabulary=WORDS) -> dict:
    """The batch with what the objective adds to it and changes in it."""
    return {**batch, **objective.corrupt(batch, seed, vocabulary)}


def program(model, objective, optimizer, batch, *, over=None, **changes) -> Program:
    """A program of one stream, on one device unless told otherwise."""
    given = {
        "model": model,
        "streams": changes.pop("streams", None) or (Stream.of(objective, batch),),
        "optimizer": optimizer,
        "schedule": optax.constant_schedule(0.0),
        "vocabulary": WORDS,
        "mesh": over or mesh(),
    }
    return Program(**{**given, **changes})


def begun(made: Program):
    """(the phase, the first state) of a program."""
    with jax.set_mesh(made.mesh):
        phase = Phases(made).at(0)
        return phase, born(phase)


def two_steps(made: Program, rules: Rules, batch):
    """(abstract state, state after two steps, losses, batch as it lies) under a table of axes."""
    with use_layout(made.mesh, rules):
        phase = Phases(made).at(0)
        state, step = born(phase), phase.step(("",))
        rows = jax.device_put(batch, batch_sharding(made.mesh))
        losses = []
        for _ in range(2):
            state, out = step(state, {"": rows}, phase.constants)
            losses.append(float(out["loss"]))
    return phase.abstract, state, losses, rows


def take(phase, state, batch):
    """(the state, the metrics) after one step of the only stream."""
    with jax.set_mesh(phase.program.mesh):
        rows = jax.device_put(batch, batch_sharding(phase.program.mesh))
        state, out = phase.step(("",))(state, {"": rows}, phase.constants)
    return state, {**out, **out["streams"][""], "loss": out["loss"]}


def relative_l2(got, want) -> dict[str, float]:
    """{name: |got - want| / |want|} over the leaves of two trees."""
    want, got = flatten(want), flatten(got)
    assert want.keys() == got.keys()

    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300))

    return {name: one(got[name], want[name]) for name in want}


def shard_params(model: Model, params, over):
    """`params` laid out over the mesh `over` as a run would lay them."""
    from jaxssl.parallel.rules import rules_in_force

    def place(box, value):
        spec = rules_in_force().spec(box.names, over)
        return jax.device_put(value, jax.sharding.NamedSharding(over, spec))

    return jax.tree.map(place, model.abstract(), params, is_leaf=is_boxed)
