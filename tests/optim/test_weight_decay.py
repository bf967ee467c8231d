"""Which parameters decay."""

import jax
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM, NEXT_SENTENCE
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.optim.weight_decay import NO_DECAY, check_no_decay, decay_mask, parameter_names


@pytest.mark.parametrize("boxed", [False, True])
def test_biases_and_norms_of_stacked_layers_do_not_decay(boxed):
    model = Model(tiny.bert(), (MASKED_LM, NEXT_SENTENCE))
    params = model.abstract() if boxed else unbox(model.abstract())
    names = jax.tree.leaves(parameter_names(params))
    decays = dict(zip(names, jax.tree.leaves(decay_mask(NO_DECAY, params)), strict=True))
    assert "encoder/layers/attention/query/bias" in decays
    assert "encoder/layers/attention_norm/scale" in decays
    for name, decay in decays.items():
        assert decay == name.endswith(("kernel", "embedding")), name


def test_own_patterns_spare_what_they_name():
    params = unbox(Model(tiny.gpt2(), (CAUSAL_LM,)).abstract())
    patterns = ("**/bias", "**/scale", "embeddings/**")
    names = jax.tree.leaves(parameter_names(params))
    decays = dict(zip(names, jax.tree.leaves(decay_mask(patterns, params)), strict=True))
    assert not decays["embeddings/tokens/embedding"] and not decays["norm/scale"]
    assert decays["decoder/layers/feed_forward/up/kernel"]


def test_a_pattern_that_matches_nothing_is_refused_with_a_suggestion():
    params = Model(tiny.gpt2(), (CAUSAL_LM,)).abstract()
    check_no_decay((*NO_DECAY, "embeddings/tokens/embedding"), params)
    with pytest.raises(UserError, match="did you mean 'embeddings/tokens/embedding'"):
        check_no_decay(("embeddings/token/embedding",), params)


def test_patterns_name_a_stack_whatever_its_segments_and_what_is_trained_of_it():
    whole = flatten(unbox(Model(tiny.gpt2(segments=(1, 1)), (CAUSAL_LM,)).abstract()))
    top = unflatten({name: leaf for name, leaf in whole.items() if "layers[1:2]" in name})
    pattern = "decoder/layers/feed_forward/up/kernel"
    decays = flatten(decay_mask((pattern,), top))
    assert len(decays) > 2
    for name, decay in decays.items():
        assert decay == (not name.endswith("feed_forward/up/kernel")), name
