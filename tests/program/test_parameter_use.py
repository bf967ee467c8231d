"""What a program reads and what its losses depend on, against the gradients themselves."""

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.program.gradients import make_loss
from jaxssl.program.parameter_use import check_read, reached, unread
from jaxssl.program.program import Stream
from jaxssl.tasks.classify import Classify
from jaxssl.transfer.peft.lora import Lora

MASKED = MaskedLm(slots=4)
LABELLED = Classify(labels=("a", "b", "c"), pooling="mean", dropout=0.0)
TEXT = tiny.rows([[d] for d in tiny.random_documents([16, 9, 12, 16])])
LABELS = {"labels": np.arange(4) % 3, "example_weights": np.ones(4, np.float32)}
BATCHES = {"text": TEXT, "labels": {**TEXT, **LABELS}}
STREAMS = (
    Stream.of(MASKED, BATCHES["text"], name="text"),
    Stream.of(LABELLED, BATCHES["labels"], name="labels"),
)
HEADS = (*MASKED.heads, *LABELLED.heads)


def model(**changes):
    return Model(tiny.bert(num_layers=1, **changes), HEADS)


def test_what_a_stream_reaches_is_what_its_gradient_moves():
    without_pooler = model(pooler=False)
    params = tiny.random_params(without_pooler)
    found = reached(without_pooler, STREAMS, tiny.WORDS)
    for stream in STREAMS:
        loss = jax.jit(make_loss(without_pooler, stream.objective))
        batch = tiny.corrupted(stream.objective, BATCHES[stream.name])
        gradient = flatten(loss(params, batch, None)[2])
        moved = {path for path, g in gradient.items() if np.any(g)}
        # A softmax over keys ignores their bias: its gradient is rounding, of whatever size.
        keys = {path for path in gradient if path.endswith("key/bias")}
        assert found[stream.name] - keys == moved - keys
        assert found[stream.name] >= keys
    assert not any("classify" in path for path in found["text"])
    assert not any("masked_lm" in path for path in found["labels"])


def test_every_parameter_of_two_streams_is_read():
    assert unread(model(pooler=False), STREAMS, tiny.WORDS) == []
    assert unread(model(), STREAMS, tiny.WORDS) == ["pooler/bias", "pooler/kernel"]


def test_a_pooler_that_nothing_reads_is_told_and_a_head_is_refused():
    assert check_read(model(), STREAMS, tiny.WORDS) == ["pooler"]
    with pytest.raises(UserError, match="parameters that nothing reads") as error:
        check_read(model(), STREAMS[:1], tiny.WORDS)
    assert "classify/output/bias" in str(error.value.got)


@pytest.mark.parametrize("method", [None, Lora(targets=("all-linear",))])
def test_a_decoder_that_nothing_reads_is_refused_with_what_to_set(method):
    adapters = () if method is None else (Attached("own", method),)
    whole = Model(BartConfig(**tiny.SHAPE, max_positions=32), LABELLED.heads, adapters=adapters)
    with pytest.raises(UserError, match=r"model\.part=encoder"):
        check_read(whole, STREAMS[1:], tiny.WORDS)


def test_position_embeddings_of_a_causal_model_are_read():
    objective = CausalLm()
    stream = Stream.of(objective, TEXT)
    causal = Model(tiny.gpt2(num_layers=1), objective.heads)
    assert check_read(causal, (stream,), tiny.WORDS) == []
