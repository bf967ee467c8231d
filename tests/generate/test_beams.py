"""Beams against brute force, choices, and several texts a prompt."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxssl.core.errors import UserError
from jaxssl.generate.decode import beam_search, generate
from jaxssl.generate.outputs import allowed, followed, make_outputs, make_sequences
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.model import Model

V, NEW, END = 6, 4, 2
MODEL = Model(tiny.gpt2(vocab_size=V), (CAUSAL_LM,))
PARAMS = tiny.random_params(MODEL, seed=3, scale=1.0)
PROMPT = np.array([3, 5, 1], np.int32)


@jax.jit
def log_probabilities(row):
    T = row.shape[0]
    ones = jnp.ones((1, T), jnp.int32)
    batch = {"tokens": row[None], "segment_ids": ones, "positions": jnp.arange(T)[None]}
    hidden = MODEL.encode(PARAMS, batch)
    return jax.nn.log_softmax(MODEL.head(PARAMS, "causal_lm", hidden)[0])


def every_text():
    """{tokens with their end: log-probability} of all texts of at most NEW tokens."""
    found = {}
    for tail in itertools.product(range(V), repeat=NEW):
        cut = tail.index(END) + 1 if END in tail else NEW
        if tail[:cut] in found:
            continue
        row = np.array([*PROMPT, *tail], np.int32)
        each = log_probabilities(row)[len(PROMPT) - 1 : -1][:cut]
        found[tail[:cut]] = float(sum(each[i, token] for i, token in enumerate(tail[:cut])))
    return found


@pytest.mark.parametrize("penalty", ["mean", "none", "gnmt"])
def test_beams_that_keep_everything_find_the_best_texts(penalty):
    alpha = {"alpha": 0.6} if penalty == "gnmt" else {}
    beams = Beams(count=200, length_penalty=penalty, early_stopping="never", **alpha)
    sampling = Sampling(max_new_tokens=NEW, samples=5)
    made = beam_search(MODEL, PARAMS, [PROMPT], sampling, beams, [END])
    over = {
        "mean": lambda n: n,
        "none": lambda n: 1,
        "gnmt": lambda n: ((5 + n) / 6) ** 0.6,
    }[penalty]
    texts = every_text()
    best = sorted(texts, key=lambda text: -texts[text] / over(len(text)))[:5]
    assert [(*each.tokens.tolist(), *[END] * each.ended) for each in made] == best
    for each, text in zip(made, best):
        assert each.log_probability == pytest.approx(texts[text], abs=1e-5)


def test_more_texts_than_beams_are_refused():
    with pytest.raises(UserError, match="fewer beams"):
        beam_search(MODEL, PARAMS, [PROMPT], Sampling(samples=3), Beams(count=2), [END])


CHOICES = [[3, 4], [3, 4, 1], [5], [1, 1, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_texts_are_always_of_the_list(seed):
    outputs = make_outputs(CHOICES, END)
    sampling = Sampling(max_new_tokens=6, temperature=3.0, samples=8, seed=seed)
    made = generate(MODEL, PARAMS, [PROMPT], sampling, [END], outputs=outputs)
    assert all(each.tokens.tolist() in CHOICES and each.ended for each in made)
    assert len({tuple(each.tokens) for each in made}) > 1


def test_beams_find_the_likeliest_choices():
    outputs = make_outputs(CHOICES, END)
    beams = Beams(count=4, length_penalty="none", early_stopping="never")
    sampling = Sampling(max_new_tokens=6, samples=4)
    made = beam_search(MODEL, PARAMS, [PROMPT], sampling, beams, [END], outputs=outputs)

    def total(choice):
        row = np.array([*PROMPT, *choice, END], np.int32)
        each = log_probabilities(row)[len(PROMPT) - 1 : -1]
        return float(sum(each[i, token] for i, token in enumerate([*choice, END])))

    best = sorted(CHOICES, key=lambda choice: -total(choice))
    assert [each.tokens.tolist() for each in made] == best


def test_the_tree_of_choices_knows_what_may_follow():
    outputs = make_outputs(CHOICES, END)
    node = jnp.zeros(1, jnp.int32)
    assert np.flatnonzero(allowed(outputs, node, V)[0]).tolist() == [1, 3, 5]
    for token, following in ((3, [4]), (4, [1, END]), (END, list(range(V)))):
        node = followed(outputs, node, jnp.array([token]))
        assert np.flatnonzero(allowed(outputs, node, V)[0]).tolist() == sorted(following)


@pytest.mark.parametrize("texts", [[], [[3], []]])
def test_no_choices_and_empty_ones_are_refused(texts):
    with pytest.raises(UserError, match="outputs"):
        make_outputs(texts, END)


def test_a_text_depends_on_its_number_alone():
    sampling = Sampling(max_new_tokens=8, temperature=2.0, samples=3)
    both = generate(MODEL, PARAMS, [PROMPT, PROMPT[:1]], sampling, [])
    first = generate(MODEL, PARAMS, [PROMPT], sampling, [])
    assert [x.tokens.tolist() for x in both[:3]] == [x.tokens.tolist() for x in first]
    assert len({tuple(each.tokens) for each in first}) == 3
    one = generate(MODEL, PARAMS, [PROMPT, PROMPT[:1]], sampling, [], together=1)
    assert [x.tokens.tolist() for x in one] == [x.tokens.tolist() for x in both]


def test_log_probabilities_are_those_of_whole_passes():
    sampling = Sampling(max_new_tokens=6, temperature=1.0, samples=2)
    for each in generate(MODEL, PARAMS, [PROMPT], sampling, []):
        row = np.array([*PROMPT, *each.tokens], np.int32)
        steps = log_probabilities(row)[len(PROMPT) - 1 : -1]
        total = sum(float(steps[i, token]) for i, token in enumerate(each.tokens))
        assert each.log_probability == pytest.approx(total, abs=1e-4)


@given(
    st.lists(
        st.lists(st.integers(3, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3
    ),
    st.lists(
        st.lists(st.integers(3, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3
    ),
)
@settings(max_examples=60, deadline=None)
def test_sequences_are_those_of_a_regular_expression(first, others):
    """One of `first`, any number of `others`, the end: of all texts of up to five tokens."""
    graph = make_sequences(first, others, END)
    spelt = lambda texts: "|".join("".join(map(str, text)) for text in texts)
    wanted = re.compile(f"({spelt(first)})({spelt(others)})*")
    for length in range(1, 6):
        for text in itertools.product((3, 4, 5), repeat=length):
            node: int | None = 0
            for token in (*text, END):
                at = np.flatnonzero(graph.tokens[node] == token)
                node = int(graph.nodes[node, at[0]]) if len(at) else None
                if node is None:
                    break
            is_one = wanted.fullmatch("".join(map(str, text))) is not None
            assert (node is not None) == is_one, (first, others, text)
