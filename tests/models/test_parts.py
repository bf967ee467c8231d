"""One stack of an encoder-decoder in all that goes by the names or the depth of a whole model."""

import math

import jax
import numpy as np
import pytest
import tiny

from jaxssl.checkpoint.ledger import is_over_positions
from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig, MBartConfig
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.models.t5 import MT5Config, T5Config
from jaxssl.objectives.auto_encode import AutoEncode
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.masked_next_token import MaskedNextToken
from jaxssl.objectives.prefix_lm import PrefixLm
from jaxssl.optim.layerwise import depth_factors
from jaxssl.tasks.seq2seq import Seq2seq
from jaxssl.transfer.freezing import Selection, choose
from jaxssl.transfer.peft.prompt import Prompt
from jaxssl.transfer.start import Start, first_params

SHAPE = {**tiny.SHAPE, **tiny.NO_DROPOUT, "max_positions": 32}
T5 = {**SHAPE, "head_width": 8, "relative_buckets": 8}
HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def first(model):
    """All parameters as a run begins with them."""
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=HERE), unbox(model.abstract())
    )
    return first_params(Start(), model, 0, shapes, lambda path: True)


@pytest.mark.parametrize("family", [T5Config, MT5Config, BartConfig])
def test_masked_tokens_are_at_first_guessed_as_by_chance(family):
    """T5's table has scale 1, so that without a scale of the head the loss would be ten times."""
    shape = {**T5, "hidden_size": 256, "num_heads": 2} if family is not BartConfig else SHAPE
    model = Model(family(part="encoder", **shape), (MASKED_LM,))
    params = first(model)
    objective = MaskedLm(rate=0.3)
    batch = tiny.corrupted(objective, tiny.rows([tiny.random_documents([20, 9])]))
    outputs = objective.forward(model, params, batch, None)
    loss = objective.sums(model, params, outputs, batch).losses["masked_lm"]
    mean = float(loss / objective.weights(batch)["masked_lm"])
    assert mean == pytest.approx(math.log(model.config.vocab_size), abs=1.5)


@pytest.mark.parametrize("family", [BartConfig, MBartConfig, T5Config])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_prompt_begins_at_the_scale_of_the_table(family, part):
    shape = T5 if family is T5Config else SHAPE
    config = family(part=part, **shape)
    model = Model(config, adapters=(Attached("own", Prompt(length=5)),))
    params = flatten(first(model))
    (name,) = (path for path in params if path.endswith("own_prompt"))
    scale = np.sqrt(np.mean(np.square(params["embeddings/tokens/embedding"])))
    assert np.sqrt(np.mean(np.square(params[name]))) == pytest.approx(scale, rel=0.3)
    rows = tiny.rows([tiny.random_documents([6])])
    hidden = model.encode(first(model), rows)
    assert hidden.shape[1] == rows["tokens"].shape[1] and np.isfinite(hidden).all()


def test_a_decoders_own_tables_have_the_rate_of_embeddings():
    model = Model(MBartConfig(part="decoder", **SHAPE))
    depth = model.config.stacks[0].depth
    factors = flatten(depth_factors(unbox(model.abstract()), 0.5, {"decoder": depth}))
    lowest = {path for path, x in factors.items() if np.all(x == 0.5 ** (depth + 1))}
    assert lowest == {path for path in factors if "embeddings/" in path} and len(lowest) == 4
    assert factors["decoder_norm/scale"] == 1


@pytest.mark.parametrize("family", [MBartConfig, T5Config])
def test_the_top_of_a_decoder_has_its_last_norm(family):
    shape = T5 if family is T5Config else SHAPE
    model = Model(family(part="decoder", **shape))
    made = choose(Selection(preset="top", top=1), unbox(model.abstract()), [])
    assert all(made[path] for path in made if path.startswith("decoder_norm/"))
    assert any(path.startswith("decoder_norm/") for path in made)
    assert not any(made[path] for path in made if "embeddings" in path)


def test_a_decoders_positions_are_known_as_such():
    assert is_over_positions("decoder_embeddings/positions/embedding")
    assert is_over_positions("teacher/embeddings/positions/embedding")
    assert not is_over_positions("decoder_embeddings/tokens/embedding")


def test_an_auto_decoder_has_the_depth_that_was_asked_for():
    config = BartConfig(part="decoder", decoder_layers=2, **{**SHAPE, "num_layers": 1})
    (network,) = AutoEncode(decoder_layers=1).networks(config).values()
    assert [stack.depth for stack in network.config.stacks] == [1]


@pytest.mark.parametrize("what", [PrefixLm(), MaskedNextToken(), Seq2seq(max_target_length=8)])
def test_a_t5s_decoder_does_not_see_ahead(what):
    """All that is ahead is at one distance for it; BART's has positions."""
    with pytest.raises(UserError, match="how far ahead"):
        what.check(T5Config(part="decoder", **T5), tiny.WORDS)
    what.check(BartConfig(part="decoder", **SHAPE), tiny.WORDS)


def test_a_decoder_alone_writes_behind_a_text_that_is_seen_causally():
    Seq2seq(max_target_length=8, prefix_visible=False).check(
        T5Config(part="decoder", **T5), tiny.WORDS
    )
    with pytest.raises(UserError, match=r"model\.part=both"):
        Seq2seq(max_target_length=8).check(T5Config(part="encoder", **T5), tiny.WORDS)


def test_language_models_of_a_decoder_have_the_head_of_the_whole():
    model = Model(T5Config(part="decoder", **T5), (CAUSAL_LM,))
    assert {path.split("/")[0] for path in flatten(unbox(model.abstract()))} == {
        "embeddings",
        "decoder",
        "decoder_norm",
    }
