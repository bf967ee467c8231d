"""Dropout goes by a row's place in the global batch: microbatches see the masks of the whole."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.models.heads import LabelHead
from jaxssl.models.model import Model
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.program.gradients import split_rows

ROWS, PARTS, LENGTH = 8, 4, 64
RATES = dict(dropout=0.3, attention_dropout=0.3)
HEADS = (
    LabelHead(name="row", size=3, scope="row", dropout=0.4),
    LabelHead(name="token", size=3, scope="token", dropout=0.4),
)
SHAPE = {**tiny.SHAPE, "num_layers": 4, "max_positions": LENGTH}
CONFIGS = {
    "bert": tiny.bert(**RATES, max_positions=LENGTH),
    "gpt2": tiny.gpt2(**RATES, max_positions=LENGTH),
    "modernbert": ModernBertConfig(**SHAPE, **RATES, local_window=5),  # blocks of a window, too
}
BATCH = {
    **tiny.rows([[d] for d in tiny.random_documents([LENGTH] * 6 + [9, 40])]),
    "row": np.arange(ROWS, dtype=np.uint32),
}


@pytest.mark.parametrize("family", CONFIGS)
def test_microbatches_are_dropped_as_the_batch_that_they_are_parts_of(family):
    model = Model(CONFIGS[family], HEADS)
    params, key = tiny.random_params(model), jax.random.key(2)

    @jax.jit
    def outputs(batch):
        hidden = model.encode(params, batch, key)
        head = functools.partial(model.head, params, dropout_key=key, rows=batch.get("row"))
        return hidden, head("row", hidden[:, 0]), head("token", hidden)

    whole = outputs(BATCH)
    without = {name: x for name, x in BATCH.items() if name != "row"}
    for got, want in zip(outputs(without), whole):
        assert np.array_equal(got, want), "rows that count from 0 change no bit"
    parts = jax.tree.map(functools.partial(split_rows, count=PARTS), BATCH)
    for number in range(PARTS):
        part = {name: x[number] for name, x in parts.items()}
        for got, want in zip(outputs(part), whole):
            np.testing.assert_allclose(got, want[number::PARTS], atol=1e-5)
        del part["row"]
        if number:
            for got, want in zip(outputs(part), whole):
                assert np.abs(got - want[number::PARTS]).max() > 0.1
