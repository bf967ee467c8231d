"""Models that learn a Markov chain reach its entropy, which is known exactly, and not less."""

import functools

import jax
import numpy as np
import pytest
import tiny
import toy

from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.schedules import Linear
from jaxssl.program.step import make_eval_step

STATES, LENGTH, FIRST = 8, 16, tiny.FIRST_WORD
VOCABULARY = tiny.vocabulary(size=FIRST + STATES)


@functools.cache
def chain():
    """(transitions, stationary distribution) of a chain whose rows differ a good deal."""
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.full(STATES, 0.35), STATES) * 0.97 + 0.03 / STATES
    values, vectors = np.linalg.eig(transitions.T)
    stationary = np.real(vectors[:, np.argmax(values.real)])
    return transitions, stationary / stationary.sum()


def sequences(count, seed):
    """Samples of the stationary chain: ids [count, LENGTH]."""
    transitions, stationary = chain()
    draws = np.random.default_rng(seed).random((LENGTH, count))
    step = np.cumsum(transitions, axis=1)
    out = [np.searchsorted(np.cumsum(stationary)[:-1], draws[0])]
    for draw in draws[1:]:
        out.append((step[out[-1]][:, :-1] < draw[:, None]).sum(axis=1))
    return FIRST + np.stack(out, axis=1).astype(np.int32)


def batch(count, seed):
    rows = tiny.rows([[row] for row in sequences(count, seed)])
    return {**rows, "epoch": np.full(count, seed, np.int32)}


def train(model, objective, steps, rows, learning_rate):
    schedule = Linear(warmup=20)
    config = AdamW(learning_rate=learning_rate, weight_decay=0.0, b2=0.98, schedule=schedule)
    optimizer, _ = make_optimizer(config, steps, rows * LENGTH)
    made = tiny.program(model, objective, optimizer, batch(rows, 0), vocabulary=VOCABULARY)
    with toy.well_compiled():
        phase, state = tiny.begun(made)
        for index in range(steps):
            state, _ = tiny.take(phase, state, batch(rows, 10 + index))
    return state.params


def measured(model, objective, params, rows):
    """(loss on `rows`, the corrupted rows)."""
    evaluate = jax.jit(make_eval_step(model, objective, VOCABULARY, seed=1))
    sums = evaluate(params, rows)
    ((name, total),) = sums["losses"].items()
    corrupted = tiny.corrupted(objective, rows, 1, VOCABULARY)
    return float(total) / float(sums["weights"][name]), jax.tree.map(np.asarray, corrupted)


def shape(family):
    make = tiny.gpt2 if family == "gpt2" else tiny.bert
    return make(
        vocab_size=FIRST + STATES,
        hidden_size=32,
        num_heads=2,
        intermediate_size=64,
        num_layers=1 if family == "gpt2" else 2,
        max_positions=LENGTH,
        initializer_range=0.1,
    )


def test_a_causal_model_reaches_the_entropy_rate():
    transitions, stationary = chain()
    entropy = -np.sum(stationary[:, None] * transitions * np.log(transitions))
    objective = CausalLm()
    model = Model(shape("gpt2"), objective.heads)
    params = train(model, objective, 250, rows=32, learning_rate=0.01)
    fresh = batch(2000, seed=1)
    loss, _ = measured(model, objective, params, fresh)
    # The samples' own cross entropy under the true chain: what sampling alone moves the loss by.
    states = fresh["tokens"] - FIRST
    best = -np.log(transitions[states[:, :-1], states[:, 1:]]).mean()
    assert best == pytest.approx(entropy, rel=0.01)
    assert loss == pytest.approx(entropy, rel=0.02)
    assert loss > best, "nothing beats the true distribution: the model would see its answers"


def posterior_cross_entropy(tokens, positions, labels):
    """Mean -log p(label | every token not masked), exact: forward and backward messages."""
    transitions, stationary = chain()
    hidden = tokens < FIRST
    seen = np.where(
        hidden[..., None], 1.0, np.eye(STATES)[np.where(hidden, 0, tokens - FIRST)]
    )  # [B, T, STATES]: which states each place allows
    forward, backward = np.ones_like(seen), np.ones_like(seen)
    forward[:, 0] = stationary
    for t in range(1, LENGTH):
        message = (forward[:, t - 1] * seen[:, t - 1]) @ transitions
        forward[:, t] = message / message.sum(axis=1, keepdims=True)
    for t in range(LENGTH - 2, -1, -1):
        message = (backward[:, t + 1] * seen[:, t + 1]) @ transitions.T
        backward[:, t] = message / message.sum(axis=1, keepdims=True)
    posterior = forward * backward
    posterior /= posterior.sum(axis=-1, keepdims=True)
    rows = np.arange(len(tokens))[:, None]
    return -np.log(posterior[rows, positions, labels - FIRST]).mean()


def test_the_exact_posterior_equals_enumeration():
    import itertools

    transitions, stationary = chain()
    tokens = sequences(1, 5)
    at = [0, 6, 7]
    labels = tokens[:, at].copy()
    tokens[0, at] = tiny.SPECIALS["mask"]

    def joint(filled):
        row = tokens[0] - FIRST
        row[at] = filled
        return stationary[row[0]] * np.prod(transitions[row[:-1], row[1:]])

    table = {f: joint(f) for f in itertools.product(range(STATES), repeat=3)}
    total = sum(table.values())
    want = -np.mean(
        [
            np.log(sum(p for f, p in table.items() if f[i] == labels[0, i] - FIRST) / total)
            for i in range(3)
        ]
    )
    assert posterior_cross_entropy(tokens, np.array([at]), labels) == pytest.approx(want)


@pytest.mark.slow
def test_a_masked_model_reaches_the_exact_posterior():
    # Everything chosen is masked: what is not can be trusted, and the posterior is exact.
    objective = MaskedLm(rate=0.25, mask_share=1.0, random_share=0.0, slots=4)
    model = Model(shape("bert"), objective.heads)
    params = train(model, objective, 800, rows=128, learning_rate=0.004)
    loss, corrupted = measured(model, objective, params, batch(4000, seed=1))
    assert corrupted["mask_weights"].all()
    best = posterior_cross_entropy(
        corrupted["tokens"], corrupted["mask_positions"], corrupted["mask_labels"]
    )
    assert loss == pytest.approx(best, rel=0.03)
    assert loss > best * 0.995, "nothing beats the exact posterior: the model would see its answers"
