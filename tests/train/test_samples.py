"""Prompts are checked before training, with the numbers that generation would refuse them for."""

import functools
from pathlib import Path

import pytest
import tiny
import toy

import jaxssl
from jaxssl.core.errors import UserError
from jaxssl.generate.decode import generate
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import LanguageModel
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM, NEXT_SENTENCE
from jaxssl.models.model import Model
from jaxssl.run.recipes import load_config
from jaxssl.run.tokenizers import make_vocabulary
from jaxssl.train.samples import SamplesConfig, check_samples, samples

ROOT = Path(jaxssl.__file__).parents[1]
RECIPES = sorted(
    path.relative_to(ROOT / "configs").with_suffix("").as_posix()
    for folder in ("pretrain", "demo")
    for path in (ROOT / "configs" / folder).glob("*.yaml")
)


@functools.cache
def tokenizer(kind):
    return toy.train_toy_tokenizer(kind, 300 if kind == "wordpiece" else 257)


def check(config, model, heads, kind):
    known = tokenizer(kind)
    size = max(model.vocab_size, known.vocab_size)
    check_samples(config, model, heads, known, make_vocabulary(known, size))


@pytest.mark.parametrize("name", RECIPES)
def test_the_prompts_of_every_recipe_fit(name):
    """With single bytes, the longest that a prompt can become."""
    config = load_config([name])
    kind = "wordpiece" if config.model.name == "bert" else "byte_bpe"
    check(config.samples, config.model, config.heads, kind)


@pytest.mark.parametrize("positions", [10, 11])
def test_the_longest_prompt_and_its_continuation_must_fit(positions):
    """Three bytes and eight tokens more are eleven positions; generation itself says the same."""
    config = SamplesConfig(prompts=("ab", "abc", ""), sampling=Sampling(max_new_tokens=8))
    model = Model(tiny.gpt2(vocab_size=257, max_positions=positions), (CAUSAL_LM,))
    ids = [tokenizer("byte_bpe").encode_batch(["abc"])[0]]
    with_room = positions == 11
    if with_room:
        check(config, model.config, model.heads, "byte_bpe")
        generate(model, tiny.random_params(model), ids, config.sampling, [])
        return
    with pytest.raises(UserError, match="set samples.sampling.max_new_tokens=7") as error:
        check(config, model.config, model.heads, "byte_bpe")
    assert error.value.where == "samples.prompts[1]"
    with pytest.raises(UserError, match="longer than the model's positions"):
        generate(model, {}, ids, config.sampling, [])


@pytest.mark.parametrize("length", [5, 6])
def test_a_text_with_a_mask_must_fit_with_its_special_tokens(length):
    known = tokenizer("wordpiece")
    (word,) = known.encode_batch(["the"])
    assert len(word) == 1
    config = SamplesConfig(prompts=("the [MASK] the the",))  # and [CLS] and [SEP]: six tokens
    model = Model(tiny.bert(vocab_size=known.vocab_size, max_positions=length), (MASKED_LM,))
    if length == 5:
        with pytest.raises(UserError, match="got: +6"):
            check(config, model.config, model.heads, "wordpiece")
        return
    check(config, model.config, model.heads, "wordpiece")
    vocabulary = make_vocabulary(known, known.vocab_size)
    language_model = LanguageModel(model, tiny.random_params(model), known, vocabulary)
    shown = list(samples(language_model, config))
    assert [(kind, len(fields["predictions"])) for kind, fields in shown] == [("fill_mask", 5)]


def test_without_prompts_nothing_is_asked():
    check(SamplesConfig(top=10**9), tiny.bert(), (NEXT_SENTENCE,), "byte_bpe")


def test_a_tokenizer_larger_than_the_embedding_is_refused():
    known = tokenizer("wordpiece")
    assert len(make_vocabulary(known, known.vocab_size + 3).word_starts) == known.vocab_size + 3
    with pytest.raises(UserError, match=f"set model.vocab_size={known.vocab_size}$"):
        make_vocabulary(known, known.vocab_size - 1)
