"""Sampling: the cache changes nothing but the cost."""

import itertools

import jax
import numpy as np
import pytest
import tiny
import toy

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.core.types import Vocabulary
from jaxssl.generate.decode import generate as continuations
from jaxssl.generate.engine import apart
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import LanguageModel, write_texts
from jaxssl.models.bart import BartConfig
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.layer_context import Memory
from jaxssl.models.layers import unbox
from jaxssl.models.llama import Qwen2Config
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config


def generate(*args, **options):
    """The tokens of each continuation."""
    return [each.tokens for each in continuations(*args, **options)]


MODEL = Model(tiny.gpt2(), (CAUSAL_LM,))
PARAMS = tiny.random_params(MODEL, seed=1, scale=1.0)
PROMPTS = [np.array(ids, np.int32) for ids in ([7], [5, 9, 11, 30, 8], [20, 6, 6])]


@jax.jit
def next_token(tokens):
    """The likeliest next token of one row that is not padded, by a whole forward pass."""
    T = tokens.shape[1]
    ones = np.ones((1, T), np.int32)
    batch = {"tokens": tokens, "segment_ids": ones, "positions": np.arange(T)[None]}
    hidden = MODEL.encode(PARAMS, batch)
    return MODEL.head(PARAMS, "causal_lm", hidden[:, -1]).argmax(axis=-1)[0]


def without_cache(prompt: np.ndarray, count: int) -> list[int]:
    row = list(prompt)
    for _ in range(count):
        row.append(int(next_token(np.array([row], np.int32))))
    return row[len(prompt) :]


@pytest.fixture(scope="module")
def greedy():
    return [without_cache(prompt, 6) for prompt in PROMPTS]


def test_greedy_decoding_with_a_cache_equals_whole_passes(greedy):
    new = generate(MODEL, PARAMS, PROMPTS, Sampling(max_new_tokens=6, temperature=0), [])
    assert [row.tolist() for row in new] == greedy
    assert len({token for row in greedy for token in row}) > 2, "it must not say one thing always"


@pytest.mark.parametrize("window_from", [0, 1], ids=["all layers", "the upper one"])
def test_a_cache_keeps_to_the_window_of_each_layer(window_from):
    config = Qwen2Config(
        **tiny.SHAPE, max_positions=64, num_kv_heads=1, window=4, window_from=window_from
    )
    model = Model(config, (CAUSAL_LM,))
    params = tiny.random_params(model, seed=1, scale=1.0)
    (prompt,) = tiny.random_documents([20])
    (new,) = generate(model, params, [prompt], Sampling(max_new_tokens=24, temperature=0), [])
    row = np.concatenate([prompt, new])[None]
    ones, places = np.ones_like(row), np.arange(row.shape[1])[None]
    batch = {"tokens": row, "segment_ids": ones, "positions": places}
    logits = jax.jit(lambda b: model.head(params, "causal_lm", model.encode(params, b)))(batch)
    assert np.array_equal(logits[0, 19:-1].argmax(axis=-1), new)
    assert len(set(new.tolist())) > 2, "it must not say one thing always"


def test_a_cache_is_born_sharded():
    model = Model(tiny.gpt2(segments=(1, 1)), (CAUSAL_LM,))
    with jax.set_mesh(tiny.mesh(2, 2, 2)):
        cache = flatten(jax.jit(lambda: model.empty_cache(8, 12))())
    assert sorted(cache) == [
        f"decoder/{layers}/attention/cached_{what}"
        for layers in ("layers[0:1]", "layers[1:2]")
        for what in ("key", "value")
    ]
    for slots in cache.values():
        assert slots.shape == (1, 8, 2, 12, 8) and not slots.any()
        assert slots.sharding.shard_shape(slots.shape) == (1, 2, 1, 12, 8)


@pytest.mark.parametrize("segments", [(), (2, 1), (1, 1, 1)], ids=["one", "two", "each"])
def test_layers_that_stand_apart_are_those_of_the_stack(segments):
    """No copy is made of what stands apart already."""
    model = Model(tiny.gpt2(num_layers=3, segments=segments), (CAUSAL_LM,))
    params = tiny.random_params(model)
    cut, own = apart(model, params)
    assert [stack.sizes for stack in cut.stacks] == [(1, 1, 1)]
    assert {name for name in flatten(own)} == {name for name in flatten(unbox(cut.abstract()))}
    batch = tiny.rows([tiny.random_documents([9])])
    want, got = (jax.jit(m.encode)(p, batch) for m, p in ((model, params), (cut, own)))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert apart(cut, own) == (cut, own)
    assert (own is params) == (segments == (1, 1, 1))


@pytest.mark.parametrize("family", [T5Config, BartConfig])
def test_an_encoder_decoder_writes_one_by_one_what_it_writes_at_once(family):
    """Hidden states of a cache filled token by token are those of the whole decoder."""
    more = {"head_width": 8, "relative_buckets": 8} if family is T5Config else {}
    model = Model(family(**tiny.SHAPE, **more, max_positions=32), (CAUSAL_LM,))
    params = tiny.random_params(model, scale=0.5)
    source, target = (tiny.rows([tiny.random_documents([n])]) for n in (11, 9))
    memory = Memory(jax.jit(model.encode)(params, source), source["segment_ids"])
    want = jax.jit(model.write)(params, target, memory)
    cache, steps, decode = model.empty_cache(1, 9, 11), [], jax.jit(model.decode)
    for at in range(9):
        one = {name: target[name][:, at : at + 1] for name in ("tokens", "positions")}
        one["segment_ids"] = np.ones((1, 1), np.int32)
        hidden, cache = decode(params, one, cache, memory)
        memory = Memory(None, source["segment_ids"])  # the cache has kept what was made of it
        steps.append(hidden[:, 0])
    largest = float(np.abs(want).max())  # what is rounded is as large
    np.testing.assert_allclose(np.stack(steps, axis=1), want, rtol=0, atol=1e-5 * largest)


def test_prompts_of_unequal_length_do_not_disturb_each_other(greedy):
    sampling = Sampling(max_new_tokens=6, temperature=0)
    alone = generate(MODEL, PARAMS, PROMPTS[2:], sampling, [])
    assert alone[0].tolist() == greedy[2]


def test_a_continuation_ends_before_the_first_of_the_stop_ids(greedy):
    first = Sampling(max_new_tokens=6, temperature=0)
    for stops in ([greedy[1][2]], [greedy[1][2], greedy[0][1]], [199, greedy[2][0]]):
        cut = [
            list(itertools.takewhile(lambda id_, stops=stops: id_ not in stops, row))
            for row in greedy
        ]
        assert cut != greedy
        assert [row.tolist() for row in generate(MODEL, PARAMS, PROMPTS, first, stops)] == cut


def test_the_seed_decides_what_is_drawn():
    draw = lambda seed: [
        row.tolist()
        for row in generate(
            MODEL, PARAMS, PROMPTS, Sampling(max_new_tokens=8, temperature=2.0, seed=seed), []
        )
    ]
    assert draw(1) == draw(1) != draw(2)


def test_prompt_and_continuation_may_fill_the_positions_and_no_more():
    prompt = [np.arange(5, 31, dtype=np.int32)]
    assert len(prompt[0]) == 26
    (new,) = generate(MODEL, PARAMS, prompt, Sampling(max_new_tokens=6), [])
    assert len(new) == 6
    with pytest.raises(UserError, match="longer than the model's positions") as raised:
        generate(MODEL, PARAMS, prompt, Sampling(max_new_tokens=7), [])
    assert "at most 32" in str(raised.value) and "26 + 7" in str(raised.value)


def test_only_tokens_that_the_tokenizer_knows_are_drawn():
    sampling = Sampling(max_new_tokens=20, temperature=100.0, top_k=None)
    drawn = lambda known: np.concatenate(
        generate(MODEL, PARAMS, [p[:4] for p in PROMPTS], sampling, [], known)
    )
    assert drawn(None).max() >= 7 > drawn(7).max()


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match="prompt is empty"):
        generate(MODEL, PARAMS, [np.zeros(0, np.int32)], Sampling(), [])


@pytest.mark.parametrize(
    "setting",
    [
        dict(max_new_tokens=0),
        dict(temperature=-0.1),
        dict(top_k=0),
        dict(top_k=-3),
        dict(top_p=0.0),
        dict(top_p=1.1),
    ],
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match="out of range") as raised:
        Sampling(**setting)
    assert [raised.value.where] == list(setting)


@pytest.mark.parametrize(("longest", "new"), [(1, 31), (31, 1)])
def test_without_a_number_as_many_tokens_are_added_as_fit(longest, new):
    assert Sampling().fitted(longest, 32).max_new_tokens == new
    assert Sampling().fitted(longest, 1000).max_new_tokens == 64
    assert Sampling().fitted(longest, 1000, trained=33).max_new_tokens == 33 - longest
    assert Sampling().fitted(longest, 1000, trained=8).max_new_tokens == max(1, 8 - longest)
    assert Sampling(max_new_tokens=40).fitted(longest, 1000, trained=33).max_new_tokens == 40
    with pytest.raises(UserError, match="shorten the prompt"):
        Sampling().fitted(32, 32)


# --- Text ---


@pytest.mark.parametrize("kind", ["byte_bpe", "wordpiece"])
def test_prompt_and_continuation_together_are_the_text_of_all_their_tokens(kind):
    tokenizer = toy.train_toy_tokenizer(kind)
    model = Model(tiny.gpt2(vocab_size=tokenizer.vocab_size), (CAUSAL_LM,))
    params = tiny.random_params(model, scale=0.6)
    roles = {role: id_ for role, id_ in tokenizer.special_ids.items() if id_ is not None}
    starts = np.ones(tokenizer.vocab_size, bool)
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size,
        special_ids=roles,
        document_end=tokenizer.document_end,
        word_starts=starts,
    )
    prompts = ("the cat sees", "a dog", "the old man likes")
    sampling = Sampling(max_new_tokens=8, temperature=0, top_k=None)
    language_model = LanguageModel(model, params, tokenizer, vocabulary)
    texts = write_texts(language_model, prompts, sampling)
    ids = tokenizer.encode_batch(list(prompts))
    new = generate(model, params, ids, sampling, [tokenizer.document_end])
    for prompt, text, before, after in zip(prompts, texts, ids, new, strict=True):
        assert len(after)
        assert prompt + text.text == tokenizer.decode([*before, *after])


def test_an_empty_prompt_starts_a_document():
    tokenizer = toy.train_toy_tokenizer("byte_bpe")
    model = Model(tiny.gpt2(vocab_size=tokenizer.vocab_size), (CAUSAL_LM,))
    params = tiny.random_params(model, scale=0.6)
    end = tokenizer.document_end
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size, special_ids={}, document_end=end, word_starts=np.ones(300, bool)
    )
    sampling = Sampling(max_new_tokens=8, temperature=0)
    language_model = LanguageModel(model, params, tokenizer, vocabulary)
    (text,) = write_texts(language_model, ("",), sampling)
    (after,) = generate(model, params, [np.array([end], np.int32)], sampling, end)
    assert text.text == tokenizer.decode(after)
