"""Which tokens reach which, by changing one and looking; stacks whose layers see differently."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jaxssl.models.gpt2 import Gpt2Config
from jaxssl.models.model import Model
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.ops.attention import local
from jaxssl.ops.attention.pattern import Pattern

LENGTHS = (5, 4, 3)
PREFIX = np.array([[1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]], np.int32)
(SEGMENTS,) = tiny.rows([tiny.random_documents(LENGTHS)])["segment_ids"]


def reach(model, pattern):
    """bool [T, T]: whether the hidden state at t changes with the token at s."""
    params = tiny.random_params(model)
    encode = jax.jit(functools.partial(model.encode, pattern=pattern))
    batch = {**tiny.rows([tiny.random_documents(LENGTHS)]), "prefix": PREFIX}
    before = np.asarray(encode(params, batch))[0]
    columns = []
    for place in range(sum(LENGTHS)):
        tokens = batch["tokens"].copy()
        tokens[0, place] = tiny.FIRST_WORD + (tokens[0, place] + 1) % 10
        after = np.asarray(encode(params, {**batch, "tokens": tokens}))[0]
        columns.append((before != after).any(axis=-1))
    return np.stack(columns, axis=1)


T, S = np.meshgrid(np.arange(sum(LENGTHS)), np.arange(sum(LENGTHS)), indexing="ij")
SAME, BEHIND = SEGMENTS[T] == SEGMENTS[S], S <= T
SEEN = {
    Pattern(): SAME,
    Pattern(causal=True): SAME & BEHIND,
    Pattern(causal=True, window=1): SAME & BEHIND & (T - S <= 1),
    Pattern(causal=True, prefix=True): SAME & (BEHIND | (PREFIX[0][S] > 0)),
}


@pytest.mark.parametrize("pattern", SEEN, ids=str)
@pytest.mark.parametrize("family", [tiny.bert, tiny.gpt2])
def test_a_call_may_choose_its_pattern(family, pattern):
    """One set of weights, whatever the family's own pattern is."""
    got = reach(Model(family(num_layers=1)), pattern)
    np.testing.assert_array_equal(got, SEEN[pattern])


def test_a_layer_keeps_its_window_in_a_pattern_of_the_call():
    config = ModernBertConfig(
        **{**tiny.SHAPE, "num_layers": 2}, max_positions=32, local_window=1, global_every=2
    )
    got = reach(Model(config), Pattern(causal=True))  # one layer sees all before, one its neighbour
    np.testing.assert_array_equal(got, SAME & BEHIND)
    first = ModernBertConfig(**{**tiny.SHAPE, "num_layers": 1}, max_positions=32)
    np.testing.assert_array_equal(reach(Model(first), Pattern(causal=True, window=1)), SEEN_NEAR)


SEEN_NEAR = SEEN[Pattern(causal=True, window=1)]


class TwoWayGpt2(Gpt2Config):
    """A GPT-2 that sees both sides by its own configuration."""

    causal = False  # type: ignore[misc]


def test_a_pattern_of_the_call_is_that_of_a_configuration():
    model, other = Model(tiny.gpt2()), Model(TwoWayGpt2(**vars(tiny.gpt2())))
    params = tiny.random_params(model)
    batch = tiny.rows([tiny.random_documents(LENGTHS)])
    got = jax.jit(functools.partial(model.encode, pattern=Pattern()))(params, batch)
    moved = {**params, "encoder": params["decoder"]}
    assert np.array_equal(got, jax.jit(other.encode)(moved, batch))
    assert not np.array_equal(got, jax.jit(model.encode)(params, batch))


# --- Layers of several patterns ---------------------------------------------------------------


LONG = 70
MIXED = ModernBertConfig(
    **{**tiny.SHAPE, "num_layers": 4},
    max_positions=LONG,
    local_window=3,
    global_every=3,
    attention_dropout=0.2,
)
ROWS = tiny.rows([tiny.random_documents(lengths) for lengths in ([LONG], [30, 35])], length=LONG)


def branches(config, length):
    """The number of branches that each `cond` of a forward pass has."""
    model = Model(config)
    batch = {
        name: x[:, :length] for name, x in ROWS.items() if x.ndim == 2 and name != "example_id"
    }
    text = str(jax.make_jaxpr(model.encode)(tiny.random_params(model), batch))
    return text.count(" cond[")


def test_only_a_stack_of_several_patterns_switches():
    assert branches(MIXED, LONG) == 1
    assert branches(MIXED, 4) == 0, "a window that reaches from end to end is none"
    every = ModernBertConfig(**vars(MIXED) | {"global_every": 1})
    assert branches(every, LONG) == 0
    assert branches(tiny.gpt2(max_positions=LONG), LONG) == 0


@pytest.mark.parametrize("remat", ["none", "full", "attention"])
def test_local_layers_are_those_of_a_mask_over_all_keys(remat, monkeypatch):
    config = ModernBertConfig(**vars(MIXED) | {"remat": remat})
    model = Model(config)
    params = tiny.random_params(model)

    def gradient():
        loss = lambda params: (model.encode(params, ROWS, jax.random.key(1)) ** 2).sum()
        value, grads = jax.jit(jax.value_and_grad(loss))(params)
        return {"value": value, "grads": grads}

    near = gradient()
    jax.clear_caches()
    monkeypatch.setattr(local, "is_cheaper", lambda pattern, length: False)
    errors = tiny.relative_l2(near, gradient())
    assert 0 < max(errors.values()) < 1e-5, errors
