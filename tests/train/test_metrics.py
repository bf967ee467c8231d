"""The table of peaks, the arithmetic of a step, and the table of losses."""

import jax
import numpy as np
import pytest
import tiny

from jaxssl.models.model import Model
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.objectives.names import LOSSES, TOKEN_LOSSES, shown_name
from jaxssl.objectives.next_sentence import NextSentence
from jaxssl.ops.attention.pattern import Pattern, Tokens, visible
from jaxssl.train.metrics import device_peak, keys_seen, step_flops


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
    config, heads = (tiny.gpt2(), ("causal_lm",)) if causal else (tiny.bert(), ("masked_lm",))
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
    assert step_flops(config, params, rows, length, labels) == 3 * 2 * products


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_counts_the_keys_that_are_in_it(causal):
    for length, window in ((9, None), (9, 0), (9, 3), (9, 20)):
        pattern = Pattern(causal=causal, window=window)
        seen = np.asarray(visible(pattern, Tokens(), Tokens(), length, length))
        want = seen.sum() / length if window is not None else length / (1 + causal)
        assert keys_seen(length, pattern) == pytest.approx(want)


def test_every_objectives_loss_is_in_the_table():
    names = {name for o in (MaskedLm, CausalLm, NextSentence) for name in o.coefficients}
    assert names == LOSSES.keys()
    assert set(TOKEN_LOSSES) == {"masked_lm", "causal_lm"}
    assert shown_name("masked_lm") == "masked LM" and shown_name("of_a_plugin") == "of a plugin"
