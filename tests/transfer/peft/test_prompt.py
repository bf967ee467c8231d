"""Virtual tokens before texts: what a model makes of them is what it makes of tokens there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten
from jaxssl.generate.decode import beam_search, generate
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig, MBartConfig
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.models.t5 import T5Config
from jaxssl.ops.attention.pattern import Pattern
from jaxssl.transfer.peft import prompt_encoder
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.merge import fold_adapters, folded_model
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.prompt import Prompt

N = 4
SHAPE = {**tiny.SHAPE, "max_positions": 48}
LLAMA = LlamaConfig(**{**SHAPE, "num_heads": 4, "num_kv_heads": 2})
FAMILIES = {
    "bert": tiny.bert(max_positions=48),
    "electra": tiny.electra(max_positions=48),
    "gpt2": tiny.gpt2(max_positions=48),
    "llama": LLAMA,
    "modernbert": ModernBertConfig(**SHAPE),
    "t5": T5Config(**SHAPE, **tiny.NO_DROPOUT, head_width=8),
    "bart": BartConfig(**SHAPE, **tiny.NO_DROPOUT),
    "mbart": MBartConfig(**SHAPE, **tiny.NO_DROPOUT),
}
IDS = np.array([11, 23, 8, 30], np.int32)
TEXTS = tiny.random_documents([9, 6], 0)
ROWS = tiny.rows([[text] for text in TEXTS])
LONGER = tiny.rows([[np.concatenate([IDS, text])] for text in TEXTS])


def with_prompt(family, *others, **settings):
    method, config = Prompt(length=N, **settings), FAMILIES.get(family, family)
    heads = () if config.name in ("bert", "electra", "modernbert") else (CAUSAL_LM,)
    others = tuple(Attached(each.name, each) for each in others)
    return Model(config, heads, adapters=(Attached("own", method), *others))


def as_tokens(model, scale=0.3):
    """Random parameters, of which the virtual tokens are rows of the table; and those of a model
    without them."""
    params = tiny.random_params(model, scale=scale)
    table = params["embeddings"]["tokens"]["embedding"]
    params[ADAPTERS]["embeddings"]["own_prompt"] = table[IDS]
    return params, {name: x for name, x in params.items() if name != ADAPTERS}


def plain(model):
    return dataclasses.replace(model, adapters=())


@pytest.mark.parametrize("family", [x for x in FAMILIES if x not in ("t5", "bart", "mbart")])
def test_virtual_tokens_that_are_rows_of_the_table_are_these_tokens(family):
    """The same text with the tokens before it: hidden states of what is behind them."""
    model = with_prompt(family)
    params, base = as_tokens(model)
    got = jax.jit(model.encode)(params, ROWS)
    want = jax.jit(plain(model).encode)(base, LONGER)[:, N:]
    none = plain(model).encode(base, ROWS)
    real = ROWS["segment_ids"] > 0
    assert np.abs(none - want)[real].max() > 1e-2
    np.testing.assert_allclose(got[real], want[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart", "mbart"])
def test_a_decoder_sees_what_the_encoder_made_of_them(family):
    model = with_prompt(family)
    params, base = as_tokens(model)
    target = tiny.rows([[text] for text in tiny.random_documents([5, 5], 4)])

    def hidden(model, params, rows):
        return model.write(params, target, model.memory(params, rows))

    got = jax.jit(hidden, static_argnums=0)(model, params, ROWS)
    want = jax.jit(hidden, static_argnums=0)(plain(model), base, LONGER)
    assert np.abs(hidden(plain(model), base, ROWS) - want).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    states, real = model.encode(params, ROWS), ROWS["segment_ids"] > 0
    alone = plain(model).encode(base, LONGER)[:, N:]
    np.testing.assert_allclose(states[real], alone[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("pattern", [None, Pattern(causal=True, prefix=True)])
def test_each_document_of_a_causal_row_is_as_if_it_were_alone(family, pattern):
    model = with_prompt(family)
    params = tiny.random_params(model, scale=0.3)
    encode = jax.jit(model.encode, static_argnums=3)
    row = tiny.rows([TEXTS])
    row["prefix"] = (row["positions"] < 3).astype(np.int32)
    together = encode(params, row, None, pattern)[0]
    for text, part in zip(TEXTS, (slice(0, 9), slice(9, 15))):
        one = tiny.rows([[text]])
        one["prefix"] = (one["positions"] < 3).astype(np.int32)
        alone = encode(params, one, None, pattern)[0]
        np.testing.assert_allclose(together[part], alone, rtol=0, atol=1e-5)


def test_a_window_does_not_hide_them():
    """A token far behind them sees them and its window: the same tokens in another order, as far
    as one layer's keys can tell them."""
    config = dataclasses.replace(LLAMA, num_layers=1, window=2)
    model = with_prompt(config)
    params = tiny.random_params(model, scale=0.5)
    last = jax.jit(lambda p: model.encode(p, ROWS)[0, 8])
    changed = jax.tree.map(jnp.array, params)
    changed[ADAPTERS]["embeddings"]["own_prompt"] += 1.0
    assert np.abs(last(changed) - last(params)).max() > 1e-2
    moved = {**ROWS, "tokens": np.array(ROWS["tokens"])}
    moved["tokens"][0, :4] += 1
    np.testing.assert_array_equal(model.encode(params, moved)[0, 8], last(params))


@pytest.mark.parametrize(
    ("family", "beams"),
    [("gpt2", None), ("window", None), ("bart", None), ("llama", Beams(count=2))],
)
def test_what_is_written_with_a_cache_is_what_the_whole_forward_says(family, beams):
    family = dataclasses.replace(LLAMA, window=3) if family == "window" else family
    model = with_prompt(family, Prefix(length=2), Lora(targets=("all-linear", "tokens")))
    params = tiny.random_params(model, scale=0.4)
    greedy = Sampling(max_new_tokens=5, temperature=0)
    made = (
        generate(model, params, TEXTS, greedy, [])
        if beams is None
        else beam_search(model, params, TEXTS, greedy, beams, [])
    )
    for prompt, text in zip(TEXTS, made):
        best, score = said(model, params, prompt, text.tokens)
        assert beams is not None or best.tolist() == text.tokens.tolist()
        assert text.log_probability == pytest.approx(score, abs=1e-4)
        other = jax.tree.map(jnp.array, params)
        other[ADAPTERS]["embeddings"]["own_prompt"] *= -3.0
        assert abs(said(model, other, prompt, text.tokens)[1] - score) > 1e-2


def said(model, params, prompt, tokens):
    """The likeliest token at the place of each of a text's, and the log-probability of the text."""
    config, n = model.config, len(tokens)
    if config.encoder_decoder:
        given = np.array([config.decoder_start_token_id, *tokens[:-1]], np.int32)
        memory = model.memory(params, tiny.rows([[prompt]]))
        hidden = model.write(params, tiny.rows([[given]]), memory)
    else:
        hidden = model.encode(params, tiny.rows([[np.concatenate([prompt, tokens[:-1]])]]))
    logits = jax.nn.log_softmax(model.head(params, CAUSAL_LM.name, hidden[:, -n:]))[0]
    return np.argmax(logits, axis=-1), float(logits[np.arange(n), tokens].sum())


def test_two_prompts_are_both_before_the_text_and_rows_may_have_their_own():
    both = Model(
        tiny.bert(), adapters=(Attached("a", Prompt(length=1)), Attached("b", Prompt(length=3)))
    )
    params = tiny.random_params(both)
    table, own = params["embeddings"]["tokens"]["embedding"], params[ADAPTERS]["embeddings"]
    own |= {"a_prompt": table[IDS[3:]], "b_prompt": table[IDS[:3]]}
    base = {name: x for name, x in params.items() if name != ADAPTERS}
    want = plain(both).encode(base, LONGER)[:, N:]
    real = ROWS["segment_ids"] > 0
    np.testing.assert_allclose(both.encode(params, ROWS)[real], want[real], rtol=0, atol=1e-5)

    for settings in ({}, {"encoder": "mlp"}, {"encoder": "lstm", "encoder_hidden_size": 6}):
        single = with_prompt("bert", **settings)
        method = single.adapters[0].method
        sets = dataclasses.replace(single, adapters=(Attached("own", method, 3),))
        params = tiny.random_params(sets, scale=0.5)
        whole = sets.encode(params, {**ROWS, "adapter": np.array([2, 0])})
        for row, number in enumerate([2, 0]):
            added = jax.tree.map(lambda x: x[number], params[ADAPTERS])  # noqa: B023
            alone = single.encode({**params, ADAPTERS: added}, ROWS)[row]
            np.testing.assert_allclose(whole[row], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_an_encoder_is_folded_to_the_vectors_that_it_gives(encoder):
    model = with_prompt("t5", encoder=encoder, encoder_hidden_size=24)
    params = tiny.random_params(model, scale=0.5)
    flat, folded = folded_model(model), fold_adapters(model, params)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, tiny.unbox(flat.abstract()))
    got, want = flat.encode(folded, ROWS), model.encode(params, ROWS)
    moved = jax.tree.map(jnp.array, params)
    moved[ADAPTERS]["embeddings"]["own_table"] *= -1.0
    assert np.abs(model.encode(moved, ROWS) - want).max() > 1e-2
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    own = {path.rsplit("/")[-1] for path in flatten(params[ADAPTERS])}
    layers = [f"{x}_{y}" for x in ("second", "last") for y in ("kernel", "bias")]
    if encoder == "mlp":
        layers += ["first_kernel", "first_bias"]
    else:
        both = [f"lstm{layer}_{way}" for layer in (0, 1) for way in ("forwards", "backwards")]
        layers += [f"{x}_{y}" for x in both for y in ("kernel", "bias", "recurrent")]
    assert own == {"own_table", *(f"own_{name}" for name in layers)}


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_an_encoder_gives_what_pefts_gives(encoder):
    """With its parameters; of its two biases the sum is one."""
    torch = pytest.importorskip("torch", reason="the reference is peft on torch")
    peft = pytest.importorskip("peft", reason="the reference is peft on torch")
    length, width, inner = 5, 12, 7
    config = peft.PromptEncoderConfig(
        num_virtual_tokens=length,
        token_dim=width,
        encoder_hidden_size=inner,
        num_transformer_submodules=1,
        encoder_reparameterization_type=encoder.upper(),
    )
    torch.manual_seed(0)
    theirs = peft.PromptEncoder(config)
    for p in theirs.parameters():
        p.data = torch.randn(p.shape)
    tensors = {name: x.detach().numpy() for name, x in theirs.named_parameters()}
    given = {"table": tensors.pop("embedding.weight")}
    numbers = {"mlp": (0, 2, 4), "lstm": (None, 0, 2)}[encoder]
    for name, number in zip(("first", "second", "last"), numbers):
        if number is not None:
            given[f"{name}_kernel"] = tensors.pop(f"mlp_head.{number}.weight").T
            given[f"{name}_bias"] = tensors.pop(f"mlp_head.{number}.bias")
    for layer in (0, 1) if encoder == "lstm" else ():
        for way, ending in (("forwards", ""), ("backwards", "_reverse")):
            x = {key: tensors.pop(f"lstm_head.{key}_l{layer}{ending}") for key in LSTM}
            given[f"lstm{layer}_{way}_kernel"] = x["weight_ih"].T
            given[f"lstm{layer}_{way}_recurrent"] = x["weight_hh"].T
            given[f"lstm{layer}_{way}_bias"] = x["bias_ih"] + x["bias_hh"]
    assert not tensors
    method = Prompt(length=length, encoder=encoder, encoder_hidden_size=inner)
    made = prompt_encoder.parameters(encoder, length, width, inner)
    assert {n: x.shape for n, x in made.items()} == {
        n: x.shape for n, x in given.items() if n != "last_kernel"
    }
    got, want = method.fold(given)["prompt"], theirs(torch.arange(length)).detach().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""What torch calls the parameters of one."""


def test_what_they_begin_as():
    table = 3.0 * np.random.default_rng(0).standard_normal((40, 128)).astype(np.float32)
    begun = Prompt(length=30).begin("prompt", "embeddings/tokens", jnp.asarray(table), (30, 128))
    assert float(np.std(begun)) == pytest.approx(3.0, rel=0.05)
    other = Prompt(length=30, seed=1).begin(
        "prompt", "embeddings/tokens", jnp.asarray(table), (30, 128)
    )
    assert np.abs(begun - other).max() > 1
    ids = Prompt(length=2, initial_ids=(7, 3)).begin(
        "prompt", "embeddings/tokens", jnp.asarray(table), (2, 128)
    )
    np.testing.assert_array_equal(ids, table[[7, 3]])


@pytest.mark.parametrize(("encoder", "inner"), [("mlp", 256), ("lstm", 96)])
def test_what_an_encoder_gives_begins_at_the_scale_of_the_table(encoder, inner):
    table = 3.0 * np.random.default_rng(0).standard_normal((40, 128)).astype(np.float32)
    method = Prompt(length=100, encoder=encoder, encoder_hidden_size=inner)
    model = Model(tiny.bert(hidden_size=128), adapters=(Attached("own", method),))
    params = tiny.unbox(model.init(jax.random.key(0)))
    own = params[ADAPTERS]["embeddings"]
    shape = own["own_last_kernel"].shape
    own["own_last_kernel"] = method.begin(
        "last_kernel", "embeddings/tokens", jnp.asarray(table), shape
    )
    given = fold_adapters(model, params)[ADAPTERS]["embeddings"]["own_prompt"]
    assert float(np.std(given)) == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"length": 0}, "length"),
        ({"initialization": "text"}, "no text to begin as"),
        ({"initial_text": "a"}, "initial_text"),
        ({"encoder_hidden_size": 8}, "encoder_hidden_size"),
        ({"encoder": "mlp", "initialization": "vocabulary"}, "cannot begin as tokens"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_of_no_meaning_are_refused(settings, error):
    with pytest.raises(UserError) as caught:
        Prompt(**settings)
    assert error in f"{caught.value.what} {caught.value.where}"


def test_what_does_not_fit_the_positions_is_refused():
    with pytest.raises(UserError, match="no position for a text"):
        Prompt(length=48).check(FAMILIES["gpt2"])
    model = with_prompt("gpt2")
    params, sampling = tiny.random_params(model), Sampling(max_new_tokens=40, temperature=0)
    with pytest.raises(UserError, match="longer than the model's positions"):
        generate(model, params, [TEXTS[1]], sampling, [])
    assert len(generate(plain(model), params, [TEXTS[1]], sampling, [])[0].tokens) == 40
