"""Prefixes: in which attention they are, what their projection is folded to, and that a cache does
not change what is written with them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten
from jaxssl.generate.decode import generate
from jaxssl.generate.settings import Sampling
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.layer_context import Memory
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config
from jaxssl.transfer.peft.merge import fold_adapters, folded_model
from jaxssl.transfer.peft.prefix import Prefix

SHAPE = {**tiny.SHAPE, "max_positions": 48}
FAMILIES = {
    "gpt2": tiny.gpt2(max_positions=48),
    "llama": LlamaConfig(**{**SHAPE, "num_heads": 4, "num_kv_heads": 2}),
    "t5": T5Config(**SHAPE, **tiny.NO_DROPOUT, head_width=8),
    "bart": BartConfig(**SHAPE, **tiny.NO_DROPOUT),
}


def with_prefix(family, **settings):
    method = Prefix(length=4, **settings)
    return Model(FAMILIES[family], (CAUSAL_LM,), adapters=(Attached("own", method),))


def base_of(params):
    return {name: x for name, x in params.items() if name != ADAPTERS}


SOURCE = tiny.rows([tiny.random_documents([6, 3], 0), tiny.random_documents([5, 4], 1)])
TARGET = tiny.rows([tiny.random_documents([4, 4], 2), tiny.random_documents([3, 5], 3)])


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_prefix_of_cross_attention_is_memory_that_all_see(family):
    """Keys and values of states that stand before the memory, by the layers' own kernels."""
    model = with_prefix(family, where=("cross_attention",))
    plain, params = dataclasses.replace(model, adapters=()), tiny.random_params(model, scale=0.3)
    rng, base = np.random.default_rng(0), base_of(params)
    lead, states = (
        rng.standard_normal((2, n, SHAPE["hidden_size"])).astype(np.float32) for n in (4, 9)
    )
    lead[1] = lead[0]
    one = np.ones_like(SOURCE["segment_ids"])
    target = {**TARGET, "segment_ids": np.ones_like(TARGET["segment_ids"])}
    whole = Memory(np.concatenate([lead, states], 1), np.ones((2, 13), np.int32))
    want = jax.jit(plain.write)(base, target, whole)
    layers = base["decoder"]["layers"]["cross_attention"]
    own = {}
    for name in ("key", "value"):
        made = np.einsum("sh,lhkd->lskd", lead[0], layers[name]["kernel"])
        own[f"own_{name}"] = made + layers[name].get("bias", np.zeros(1))[:, None]
    assert {*flatten(params[ADAPTERS])} == {f"decoder/layers/cross_attention/{x}" for x in own}
    given = {**base, ADAPTERS: {"decoder": {"layers": {"cross_attention": own}}}}
    got = jax.jit(model.write)(given, target, Memory(states, one))
    assert np.abs(want - plain.write(base, target, Memory(states, one))).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_a_token_without_memory_still_sees_the_prefix():
    model = with_prefix("t5", where=("cross_attention",))
    params = tiny.random_params(model, scale=0.5)
    states = jnp.zeros((2, 9, SHAPE["hidden_size"]))
    nowhere = Memory(states, jnp.full((2, 9), 7))
    got = model.write(params, TARGET, nowhere)
    none = dataclasses.replace(model, adapters=()).write(base_of(params), TARGET, nowhere)
    assert np.isfinite(got).all() and np.abs(got - none).max() > 1e-2


def test_a_prefix_is_where_it_is_asked_for():
    places = {
        "encoder": "encoder/layers/attention",
        "decoder": "decoder/layers/attention",
        "cross_attention": "decoder/layers/cross_attention",
    }

    def lies_in(where):
        model = with_prefix("t5", where=where)
        return {path.rsplit("/", 1)[0] for path in flatten(model.abstract()[ADAPTERS])}

    for place, path in places.items():
        assert lies_in((place,)) == {path}
    assert lies_in(("decoder", "encoder", "cross_attention")) == {*places.values()}
    for where in ((), ("encoder", "encoder")):
        with pytest.raises(UserError, match="not a choice of attention"):
            Prefix(where=where)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_projection_is_folded_to_the_prefix_that_it_gives(family):
    model = with_prefix(family, projection_size=24)
    params = tiny.random_params(model, scale=0.5)
    flat, folded = folded_model(model), jax.jit(lambda p: fold_adapters(model, p))(params)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, tiny.unbox(flat.abstract()))
    assert {path.rsplit("/", 1)[1] for path in flatten(folded[ADAPTERS])} == {
        "own_key",
        "own_value",
    }

    def hidden(model, params):
        states = model.encode(params, SOURCE)
        if not model.config.encoder_decoder:
            return states
        return model.write(params, TARGET, Memory(states, jnp.asarray(SOURCE["segment_ids"])))

    got, want = jax.jit(hidden, static_argnums=0)(flat, folded), hidden(model, params)
    none = hidden(dataclasses.replace(model, adapters=()), base_of(params))
    assert np.abs(want - none).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_a_projection_begins_at_the_scale_of_a_flat_prefix():
    model = Model(
        tiny.gpt2(hidden_size=256),
        adapters=(Attached("own", Prefix(length=20, projection_size=512, initial_scale=0.1)),),
    )
    params = fold_adapters(model, tiny.unbox(model.init(jax.random.key(0))))
    for path, x in flatten(params[ADAPTERS]).items():
        assert float(np.std(x)) == pytest.approx(0.1, rel=0.05), path
        assert np.abs(x[0] - x[1]).max() > 0.1, "each layer has its own"


def test_each_row_may_use_a_projected_prefix_of_its_own():
    single, method = with_prefix("gpt2", projection_size=12), Prefix(length=4, projection_size=12)
    sets = dataclasses.replace(single, adapters=(Attached("own", method, 3),))
    params = tiny.random_params(sets, scale=0.5)
    whole = sets.encode(params, {**SOURCE, "adapter": np.array([2, 0])})
    for row, number in enumerate([2, 0]):
        added = jax.tree.map(lambda x: x[:, number], params[ADAPTERS])  # noqa: B023
        alone = single.encode({**base_of(params), ADAPTERS: added}, SOURCE)[row]
        np.testing.assert_allclose(whole[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "size"), [("gpt2", None), ("llama", 12), ("t5", 12), ("bart", None)]
)
def test_what_is_written_with_a_cache_is_what_the_whole_forward_says(family, size):
    model = with_prefix(family, projection_size=size)
    params, prompts = tiny.random_params(model, scale=0.5), tiny.random_documents([7, 4], 5)
    made = generate(model, params, prompts, Sampling(max_new_tokens=5, temperature=0), [])
    plain = dataclasses.replace(model, adapters=())
    for prompt, text in zip(prompts, made):
        best, score = said(model, params, prompt, text.tokens)
        assert best.tolist() == text.tokens.tolist()
        assert text.log_probability == pytest.approx(score, abs=1e-4)
        assert abs(said(plain, base_of(params), prompt, text.tokens)[1] - score) > 0.1


def said(model, params, prompt, tokens):
    """The likeliest token at the place of each of a text's, and the log-probability of the text."""
    config, n = model.config, len(tokens)
    if config.encoder_decoder:
        read = tiny.rows([[prompt]])
        memory = Memory(model.encode(params, read), read["segment_ids"])
        given = np.array([config.decoder_start_token_id, *tokens[:-1]], np.int32)
        hidden = model.write(params, tiny.rows([[given]]), memory)
    else:
        hidden = model.encode(params, tiny.rows([[np.concatenate([prompt, tokens[:-1]])]]))
    logits = jax.nn.log_softmax(model.head(params, CAUSAL_LM.name, hidden[:, -n:]))[0]
    return np.argmax(logits, axis=-1), float(logits[np.arange(n), tokens].sum())


def test_a_projection_learns_at_a_third_of_the_rate():
    """At the whole of it, a fine-tuning on MiniLM has stayed at chance."""
    assert Prefix().rate_factor("key") == Prefix().learning_rate_factor == 30
    assert Prefix(projection_size=8).rate_factor("key_kernel") == pytest.approx(10)
    slower = Prefix(projection_size=8, learning_rate_factor=6)
    assert slower.rate_factor("inner_bias") == pytest.approx(2)
