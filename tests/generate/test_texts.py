"""Texts by words: stop strings, what is told while they come, and choices."""

import numpy as np
import pytest
import tiny
import toy

from jaxssl.core.errors import UserError
from jaxssl.core.types import Vocabulary
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import LanguageModel, Writing, check_stops, write_texts
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model


@pytest.fixture(scope="module")
def language_model():
    tokenizer = toy.train_toy_tokenizer("byte_bpe")
    model = Model(tiny.gpt2(vocab_size=tokenizer.vocab_size), (CAUSAL_LM,))
    vocabulary = Vocabulary(
        size=tokenizer.vocab_size,
        special_ids={},
        document_end=tokenizer.document_end,
        word_starts=np.ones(tokenizer.vocab_size, bool),
    )
    return LanguageModel(model, tiny.random_params(model, scale=0.6), tokenizer, vocabulary)


SAMPLING = Sampling(max_new_tokens=16, temperature=1.5, top_k=None, samples=3)


def test_a_text_ends_before_a_stop_string_to_the_letter(language_model):
    whole = [each.text for each in write_texts(language_model, ["the cat"], SAMPLING)]
    stop = whole[0][3:5]  # it need not begin with a token
    sampling = Sampling(**{**SAMPLING.__dict__, "stop": (stop, "never there")})
    made = write_texts(language_model, ["the cat"], sampling)
    assert [each.text for each in made] == [text.split(stop)[0] for text in whole]
    assert made[0].ended_by == "stop" and len(made[0].text) <= 3


def test_what_is_told_on_the_way_is_the_text(language_model):
    for stop in ((), ("at",), ("e",)):
        sampling = Sampling(**{**SAMPLING.__dict__, "stop": stop})
        told = {0: "", 1: "", 2: ""}

        def on_piece(number, piece, told=told):
            assert piece
            told[number] += piece

        made = write_texts(language_model, ["the cat"], sampling, on_piece=on_piece)
        assert list(told.values()) == [each.text for each in made]


def test_choices_are_written_and_nothing_else(language_model):
    writing = Writing(choices=(" sees", " a dog", " follows the cat"))
    made = write_texts(language_model, ["the cat", "x"], SAMPLING, writing)
    assert {each.text for each in made} <= {*writing.choices}
    assert all(each.ended_by == "end" for each in made)


def test_a_stop_string_that_cannot_occur_is_refused():
    tokenizer = toy.train_toy_tokenizer("wordpiece")
    with pytest.raises(UserError, match="cannot occur"):
        check_stops(tokenizer, ["the cat", "\u4e16\u754c"])
    check_stops(tokenizer, ["the cat"])
