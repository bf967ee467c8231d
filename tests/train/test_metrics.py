"""The table of peaks, the arithmetic of a step, and the numbers that sums become."""

import math

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.ramp import Ramp
from jaxssl.models.heads import CAUSAL_LM, MASKED_LM
from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.combine import Combine, Term
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.ops.attention.pattern import Pattern, Tokens, visible
from jaxssl.train.metrics import (
    device_peak,
    finished,
    keys_seen,
    language_numbers,
    step_flops,
    total,
)


@pytest.mark.parametrize(
    ("kind", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("TPU v5 lite", 197),
        ("TPU v5p", 459),
        ("TPU7x", 1153.5),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H100 of another kind", None),
        ("cpu", None),
    ],
)
def test_each_kind_of_device_has_the_peak_of_its_own_data_sheet(kind, teraflops):
    assert device_peak(kind) == (None if teraflops is None else teraflops * 1e12)


@pytest.mark.parametrize("causal", [False, True])
def test_the_flops_of_a_step_are_three_times_the_products_of_a_forward_pass(causal):
    """Counted from the shapes of every kernel; attention by the scores that are needed."""
    config, heads = (tiny.gpt2(), (CAUSAL_LM,)) if causal else (tiny.bert(), (MASKED_LM,))
    params = Model(config, heads).abstract()
    rows, length, labels = 3, 20, 11
    sizes = {
        jax.tree_util.keystr(path): leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    blocks = sum(n for name, n in sizes.items() if "'layers'" in name and "'kernel'" in name)
    head = sum(n for name, n in sizes.items() if "'masked_lm'" in name and "'kernel'" in name)
    products = rows * length * blocks + labels * (head + tiny.VOCAB * config.hidden_size)
    # Scores and weighted values: each query with each key, or with half of them.
    pairs = rows * length * length / (2 if causal else 1)
    products += 2 * config.num_layers * config.hidden_size * pairs
    assert step_flops(config, heads, rows, length, labels) == 3 * 2 * products


def test_sums_are_divided_once_and_a_number_without_weight_is_none():
    sums = {"nll/causal_lm": (6.0, 4.0), "accuracy/causal_lm": (0.0, 0.0)}
    numbers = finished(CausalLm(), sums)
    assert numbers["loss/causal_lm"] == 1.5
    assert numbers.keys() == {"loss/causal_lm", "accuracy/causal_lm"}
    assert math.isnan(numbers["accuracy/causal_lm"])


def test_the_total_of_a_validation_has_the_factors_that_weights_end_at():
    fading = Ramp(points=((0, 1.0), (10, 0.25)))
    objective = Combine(
        terms=(Term(objective=MaskedLm(), weight=fading), Term(objective=NextSentence()))
    )
    losses = {"masked_lm": 12.0, "next_sentence": 3.0}
    weights = {"masked_lm": 4.0, "next_sentence": 2.0}
    assert total(objective, losses, weights) == 0.25 * 3.0 + 1.5
    assert total(CausalLm(), {"causal_lm": 0.0}, {"causal_lm": 0.0}) == 0


def test_losses_in_nats_per_token_have_perplexity_and_bits_per_byte():
    pairs = Combine(terms=(Term(objective=MaskedLm()), Term(objective=NextSentence())))
    values = {"loss/masked_lm": 2.0, "loss/next_sentence": 0.5}
    want = {"perplexity": math.exp(2.0), "bits_per_byte": pytest.approx(0.5 / math.log(2))}
    assert language_numbers(pairs, values, tokens_per_byte=0.25) == want
    assert language_numbers(pairs, values, None).keys() == {"perplexity"}
    assert language_numbers(NextSentence(), values, 0.25) == {}


def test_of_two_losses_in_nats_per_token_each_has_its_own_numbers():
    rates = {"at_15": 0.15, "at_40": 0.4}
    terms = [Term(objective=MaskedLm(rate=rate), name=name) for name, rate in rates.items()]
    values = {"at_15/loss/masked_lm": 1.0, "at_40/loss/masked_lm": 2.0}
    assert language_numbers(Combine(terms=tuple(terms)), values, None) == {
        "perplexity/at_15/masked_lm": math.exp(1.0),
        "perplexity/at_40/masked_lm": math.exp(2.0),
    }


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_counts_the_keys_that_are_in_it(causal):
    for length, window in ((9, None), (9, 0), (9, 3), (9, 20)):
        pattern = Pattern(causal=causal, window=window)
        seen = np.asarray(visible(pattern, Tokens(), Tokens(), length, length))
        want = seen.sum() / length if window is not None else length / (1 + causal)
        assert keys_seen(length, pattern) == pytest.approx(want)
