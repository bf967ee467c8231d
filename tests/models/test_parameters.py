"""Sizes, names and initial values of parameters."""

import math

import jax
import numpy as np
import optax
import pytest
import tiny
from scipy.stats import kstest, norm, truncnorm

from jaxssl.core.names import flatten
from jaxssl.models import bert, electra, gpt2, llama, modernbert
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM, NEXT_SENTENCE, REPLACED_TOKENS
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, num_parameters
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.program.phase import Phases

BERT = {
    "tiny": 4_385_920,
    "mini": 11_170_560,
    "small": 28_763_648,
    "medium": 41_373_184,
    "base": 109_482_240,
    "large": 335_141_888,
}
GPT2 = {
    "small": 124_439_808,
    "medium": 354_823_168,
    "large": 774_030_080,
    "xl": 1_557_611_200,
}
# As `transformers` counts them: with the masked language model's head, the discriminator's, or the
# causal one's.
ROBERTA = {"base": 124_697_433, "large": 355_412_057}
DISTILBERT = {"base": 66_985_530}
ELECTRA = {"small": 13_549_057, "base": 109_483_009, "large": 335_142_913}
MODERNBERT = {"base": 149_655_232 + 768, "large": 395_881_664 + 1024}
"""And the scale of a norm that the first layer has not, which stays 1."""
LLAMA = {"1b": 1_235_814_400, "8b": 8_030_261_248}
MISTRAL = {"7b": 7_241_732_096}
QWEN2 = {"0.5b": 494_032_768}
QWEN3 = {"0.6b": 596_049_920}


def test_every_preset_has_the_published_number_of_parameters():
    for presets, published, heads in (
        (bert.PRESETS, BERT, ()),
        (bert.ROBERTA_PRESETS, ROBERTA, (MASKED_LM,)),
        (bert.DISTILBERT_PRESETS, DISTILBERT, (MASKED_LM,)),
        (electra.PRESETS, ELECTRA, (REPLACED_TOKENS,)),
        (modernbert.PRESETS, MODERNBERT, (MASKED_LM,)),
        (gpt2.PRESETS, GPT2, (CAUSAL_LM,)),
        (llama.LLAMA_PRESETS, LLAMA, (CAUSAL_LM,)),
        (llama.MISTRAL_PRESETS, MISTRAL, (CAUSAL_LM,)),
        (llama.QWEN2_PRESETS, QWEN2, (CAUSAL_LM,)),
        (llama.QWEN3_PRESETS, QWEN3, (CAUSAL_LM,)),
    ):
        counted = {n: num_parameters(unbox(Model(c, heads).abstract())) for n, c in presets.items()}
        assert counted == published


def test_the_pretraining_heads_share_the_embedding_table():
    body = num_parameters(unbox(Model(bert.PRESETS["base"]).abstract()))
    params = unbox(Model(bert.PRESETS["base"], (MASKED_LM, NEXT_SENTENCE)).abstract())
    heads = num_parameters(params) - body
    # transform, its norm, a bias per id; two logits with their biases (google-research/bert).
    assert heads == (768 * 768 + 768) + 2 * 768 + 30522 + (768 * 2 + 2)
    assert num_parameters(params, leave_out=("masked_lm", "next_sentence")) == body


@pytest.mark.parametrize("size", electra.PRESETS)
def test_electra_has_embeddings_of_their_own_width_and_its_heads_come_down_to_it(size):
    c = electra.PRESETS[size]
    E, H, F, V, P = c.embedding_size, c.hidden_size, c.intermediate_size, c.vocab_size, 512
    embeddings = (V + P + 2) * E + 2 * E
    projection = E * H + H if E != H else 0
    layer = 4 * (H * H + H) + 2 * H + (H * F + F) + (F * H + H) + 2 * H
    count = lambda *heads: num_parameters(unbox(Model(c, heads).abstract()))
    body = embeddings + projection + c.num_layers * layer
    assert count() == body
    assert count(MASKED_LM) - body == (H * E + E) + 2 * E + V
    assert count(REPLACED_TOKENS) - body == (H * H + H) + (H + 1)


PAIRS = Combine(terms=(Term(objective=MaskedLm()), Term(objective=NextSentence())))


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (bert.PRESETS["base"], PAIRS),
        (gpt2.PRESETS["small"], CausalLm()),
        (modernbert.PRESETS["base"], MaskedLm()),
        (electra.PRESETS["large"], MaskedLm()),
        (llama.LLAMA_PRESETS["8b"], CausalLm()),
    ],
    ids=["bert", "gpt2", "modernbert", "electra", "llama"],
)
def test_no_large_parameter_or_moment_is_replicated(config, objective):
    model, batch = Model(config, objective.heads), tiny.rows([tiny.random_documents([8])])
    made = tiny.program(model, objective, optax.adam(1e-3), batch, over=tiny.mesh(fsdp=8))
    with jax.set_mesh(made.mesh):
        state = Phases(made).at(0).abstract
    large = [leaf for leaf in jax.tree.leaves(state) if leaf.size > 200_000]
    assert len(large) >= 24
    for leaf in large:
        assert math.prod(leaf.sharding.shard_shape(leaf.shape)) * 8 == leaf.size, leaf


def initial(config, heads):
    return flatten(jax.jit(lambda key: unbox(Model(config, heads).init(key)))(jax.random.key(0)))


def test_bert_starts_from_a_normal_cut_at_two_sigma():
    params = initial(tiny.bert(hidden_size=32, intermediate_size=128), (MASKED_LM,))
    expected = truncnorm(-2, 2, scale=0.02)
    for name, value in params.items():
        if name.endswith(("kernel", "embedding")):
            assert np.abs(value).max() <= 0.04, name
            assert kstest(np.ravel(value), expected.cdf).pvalue > 1e-4, name
        else:
            assert np.all(np.asarray(value) == float(name.endswith("scale"))), name


def test_gpt2_starts_normal_with_smaller_residual_projections():
    layers = 3
    params = initial(
        tiny.gpt2(hidden_size=32, intermediate_size=128, num_layers=layers), (CAUSAL_LM,)
    )
    small = 0.02 / math.sqrt(2 * layers)
    for name, value in params.items():
        if name.endswith(("kernel", "embedding")):
            residual = "attention/output" in name or "feed_forward/down" in name
            expected = norm(scale=small if residual else 0.02)
            assert kstest(np.ravel(value), expected.cdf).pvalue > 1e-4, name
        else:
            assert np.all(np.asarray(value) == float(name.endswith("scale"))), name


def test_layers_of_a_stack_start_different():
    kernel = initial(tiny.gpt2(hidden_size=32, intermediate_size=128, num_layers=3), (CAUSAL_LM,))[
        "decoder/layers/attention/query/kernel"
    ]
    a, b = np.ravel(kernel[0]), np.ravel(kernel[1])
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
