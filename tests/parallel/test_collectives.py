"""What travels between devices, read off the compiled program."""

import re

import jax
import numpy as np
import pytest
import tiny

from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.parallel.mesh import batch_sharding
from jaxssl.program.gradients import make_loss

REDUCTION = re.compile(r"= (.*?) (?:all-reduce|reduce-scatter)(?:-start)?\(")


def reductions(text: str) -> tuple[list[str], list[str]]:
    """The shapes of what is added up over devices: in the bodies of loops, and outside them."""
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    inside, outside, computation = [], [], ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            computation = header[1]
        elif found := REDUCTION.search(line):
            (inside if computation in bodies else outside).append(found[1])
    assert bodies and outside
    return inside, outside


@pytest.mark.parametrize(
    "config, objective, sizes",
    [(tiny.gpt2(), CausalLm(chunk=8), (2, 2, 2)), (tiny.bert(), MaskedLm(chunk=2), (1, 8, 1))],
    ids=["causal, 2 x 2 x 2", "masked, fsdp 8"],
)
def test_the_tables_gradient_is_added_up_over_devices_once_not_in_every_chunk(
    config, objective, sizes
):
    over, model = tiny.mesh(*sizes), Model(config, objective.heads)
    batch = tiny.rows([[d] for d in tiny.random_documents([32] * 16)], length=32)
    batch = jax.tree.map(np.asarray, tiny.corrupted(objective, batch, 0, tiny.WORDS))
    with jax.set_mesh(over):
        params = tiny.shard_params(model, tiny.random_params(model), over)
        rows = jax.device_put(batch, batch_sharding(over))
        loss = jax.jit(make_loss(model, objective))
        inside, outside = reductions(loss.lower(params, rows, None).compile().as_text())
    vocabulary = tiny.VOCAB // sizes[2]
    is_table = lambda shape: re.search(rf"\[(\d+,)?{vocabulary}(,\d+)?\]", shape)
    assert not list(filter(is_table, inside))
    assert list(filter(is_table, outside))
