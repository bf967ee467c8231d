"""A conversation: only what is new is read, and the answers are those of the whole text."""

import jax
import numpy as np
import pytest
import talks
import tiny

from jaxssl.core.errors import UserError
from jaxssl.data.chat.conversations import in_turns
from jaxssl.data.tokenizer.chat_template import ChatTemplate, with_template
from jaxssl.generate.chat import Conversation
from jaxssl.generate.decode import generate
from jaxssl.generate.settings import Sampling
from jaxssl.generate.texts import LanguageModel, decoded
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model
from jaxssl.run.tokenizers import make_vocabulary

LINES = ("the cat sees a dog", "my sister", "who paints one green fish?", "a dog", "at home")
GREEDY = Sampling(temperature=0, max_new_tokens=9)


@pytest.fixture(scope="module")
def language_model():
    tokenizer = with_template(talks.tokenizer(), "chatml")
    model = Model(tiny.gpt2(vocab_size=304, max_positions=160), (CAUSAL_LM,), tiny.FLOAT64)
    with jax.enable_x64(True):
        params = tiny.random_params(model, scale=0.4)
    return LanguageModel(model, params, tokenizer, make_vocabulary(tokenizer, 304))


def test_answers_are_those_of_the_whole_conversation_read_anew(language_model):
    """Greedy, in float64; also behind turns that were forgotten, whose places others take."""
    model, params, tokenizer, vocabulary = language_model
    template = ChatTemplate(tokenizer)
    with jax.enable_x64(True):
        talk = Conversation(language_model, GREEDY, 120, system="a man")
        forgotten, before_it, told = 0, 0, []
        for number, line in enumerate(LINES):
            before = [*talk.messages, {"role": "user", "content": line}]
            made = talk.ask(line, told.append if number == 0 else None)
            forgotten += made.forgotten
            whole = in_turns(before)
            kept = whole.last(len(whole.turns) - made.forgotten)
            prompt = template.prompt(kept, "here")
            (wanted,) = generate(
                model, params, [prompt], GREEDY, [template.end], num_tokens=vocabulary.size
            )
            text = decoded(tokenizer, prompt, wanted.tokens).strip()
            assert made.text == text and made.ended == wanted.ended
            assert talk.messages == [*kept, {"role": "assistant", "content": text}]
            if number == 0:
                assert "".join(told).strip() == text and made.read == len(prompt)
            elif not made.forgotten:
                answer = len(template.tokenizer.encode_batch([talk.messages[-3]["content"]])[0])
                new = len(prompt) - before_it
                assert made.read <= new + answer, "what was said before was read again"
            before_it = len(prompt)
    assert forgotten and talk.messages[0]["content"] == "a man"


def test_a_question_that_is_too_long_leaves_the_conversation_as_it_was(language_model):
    with jax.enable_x64(True):
        talk = Conversation(language_model, GREEDY, 60)
        with pytest.raises(UserError, match="too long") as raised:
            talk.ask("the cat " * 30)
        assert raised.value.expected.startswith("at most 50 tokens")
        assert talk.messages == []
        with pytest.raises(UserError, match="no room"):
            Conversation(language_model, GREEDY, 10)


def test_draws_depend_on_the_seed(language_model):
    def said(seed):
        sampling = Sampling(temperature=2.0, top_k=None, max_new_tokens=9, seed=seed)
        return Conversation(language_model, sampling, 120).ask("the cat").text

    with jax.enable_x64(True):
        assert said(1) == said(1) != said(2)
        assert np.unique([said(seed) for seed in range(4)]).size > 1
