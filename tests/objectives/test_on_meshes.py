"""A step of every objective is the same on one device and on eight."""

import jax
import numpy as np
import optax
import pytest
import tiny

from jaxssl.core.names import flatten
from jaxssl.models.model import Model
from jaxssl.objectives.masked_diffusion import MaskedDiffusion
from jaxssl.objectives.masked_next_token import MaskedNextToken
from jaxssl.objectives.passages import Passages
from jaxssl.objectives.prefix_lm import PrefixLm
from jaxssl.objectives.replaced_tokens import Generator, ReplacedTokens
from jaxssl.objectives.span_boundary import SpanBoundary

T, SLOTS = 32, 16
WHOLE = Generator(width=1.0, layers=0.5, num_heads=2)
OBJECTIVES = (
    SpanBoundary(slots=SLOTS, rate=0.3),
    ReplacedTokens(slots=SLOTS, generator=WHOLE),
    ReplacedTokens(slots=SLOTS, generator=WHOLE, embeddings="disentangled"),
    MaskedDiffusion(),
    MaskedNextToken(slots=SLOTS),
    PrefixLm(),
    Passages(shortest=2),
)
NAMES = [
    "span boundary",
    "electra",
    "disentangled",
    "diffusion",
    "masked next token",
    "prefix",
    "passages",
]


def model_of(objective):
    config = tiny.bert(pooler=False, dropout=0.1)
    wanted = dict(objective.networks(config))
    main = wanted.pop("", None)
    others = tuple(
        Model(network.config, network.heads, root=name, ties=network.ties)
        for name, network in wanted.items()
    )
    return Model(config, objective.heads, ties=main.ties if main else (), others=others)


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=NAMES)
def test_a_step_is_the_same_on_one_device_and_on_eight(objective):
    documents = [tiny.random_documents([18, 12], seed=i) for i in range(8)]
    batch = tiny.rows(documents, length=T)
    model, made = model_of(objective), {}
    for where, over in (("one", tiny.mesh()), ("eight", tiny.mesh(2, 2, 2))):
        program = tiny.program(model, objective, optax.sgd(0.1), batch, over=over)
        phase, state = tiny.begun(program)
        state, out = tiny.take(phase, state, batch)
        made[where] = (float(out["loss"]), flatten(jax.device_get(state.params)))
    loss, params = made["one"]
    assert np.isfinite(loss) and loss > 0
    assert made["eight"][0] == pytest.approx(loss, rel=2e-6)
    for name, value in made["eight"][1].items():
        assert value == pytest.approx(params[name], abs=2e-6, rel=2e-5), name
