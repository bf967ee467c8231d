"""Choosing the next token against brute-force candidate sets and probabilities."""

import functools

import jax
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxssl.generate.engine import chosen
from jaxssl.generate.settings import Sampling

V, DRAWS = 12, 20_000
LOGITS = (2 * np.random.default_rng(0).standard_normal(V)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def jitted(sampling, rows):
    keys = jax.random.split(jax.random.key(0), len(rows))
    return chosen(sampling, rows, keys, np.zeros(len(rows), np.int32))


def draw(logits=None, **how):
    rows = np.broadcast_to(LOGITS, (DRAWS, V)) if logits is None else logits
    how = {"temperature": 1.0, "top_k": None, **how}
    return np.asarray(jitted(Sampling(**how), rows))


def brute_force(temperature=1.0, top_k=None, top_p=None, min_p=None):
    p = np.exp(LOGITS.astype(float) / temperature)
    p /= p.sum()
    order = sorted(range(V), key=lambda i: -p[i])
    if top_k is not None:
        order = order[:top_k]
    if top_p is not None:
        kept, total, mass = [], 0.0, sum(p[i] for i in order)
        for i in order:
            kept.append(i)
            total += p[i] / mass
            if total >= top_p:
                break
        order = kept
    if min_p is not None:
        order = [i for i in order if p[i] >= min_p * p.max()]
    out = np.zeros(V)
    out[order] = p[order]
    return out / out.sum()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 3},
        {"top_p": 0.7},
        {"top_k": 5, "top_p": 0.8, "temperature": 1.5},
        {"top_k": 100},
        {"top_p": 1.0},
        {"min_p": 0.2},
    ],
    ids=str,
)
def test_samples_follow_the_brute_force_distribution(how):
    expected = brute_force(**how)
    counts = np.bincount(draw(**how), minlength=V)
    allowed = expected > 0
    assert counts[~allowed].sum() == 0
    assert chisquare(counts[allowed], DRAWS * expected[allowed]).pvalue > 1e-3


def test_temperature_zero_takes_the_largest():
    logits = np.random.default_rng(1).standard_normal((50, V)).astype(np.float32)
    assert np.array_equal(draw(logits, temperature=0.0), logits.argmax(-1))


def test_top_k_of_one_and_a_tiny_top_p_take_the_largest():
    assert set(draw(top_k=1)) == {LOGITS.argmax()}
    assert set(draw(top_p=1e-6)) == {LOGITS.argmax()}


def test_rows_are_sampled_by_themselves():
    ids = draw()
    assert len(np.unique(ids)) > 3
