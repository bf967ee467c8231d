"""Methods on their own: nothing changes at first, as many parameters as the formula says, and what
they compute, by formula."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.layer_context import Memory
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model, num_parameters
from jaxssl.models.t5 import T5Config
from jaxssl.run.adapters import attached
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.compacter import Compacter
from jaxssl.transfer.peft.fusion import Fusion, Sum
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.merge import merge_adapters
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.tokens import Tokens

H, F, L = (tiny.SHAPE[name] for name in ("hidden_size", "intermediate_size", "num_layers"))
FAMILIES = {
    "bert": tiny.bert(),
    "gpt2": tiny.gpt2(),
    "llama": LlamaConfig(**{**tiny.SHAPE, "num_heads": 4, "num_kv_heads": 2, "max_positions": 32}),
    "t5": T5Config(**{**tiny.SHAPE, **tiny.NO_DROPOUT, "max_positions": 32}, head_width=8),
    "bart": BartConfig(**{**tiny.SHAPE, **tiny.NO_DROPOUT, "max_positions": 32}),
}
BATCH = tiny.rows([tiny.random_documents([6, 3], 0), tiny.random_documents([5, 4], 1)])


def with_method(config, method, heads=()):
    return Model(config, heads, adapters=(Attached("own", method),))


def hidden(model, params):
    states = model.encode(params, BATCH)
    if not model.config.encoder_decoder:
        return states
    return model.write(params, BATCH, Memory(states, jnp.asarray(BATCH["segment_ids"])))


EVERYWHERE = Lora(targets=("all-linear", "tokens"))
AT_FIRST = [
    ("llama", EVERYWHERE),
    ("t5", EVERYWHERE),
    ("bert", Ia3()),
    ("bart", Ia3()),
    ("gpt2", Tokens(ids=(3, 5))),
    ("gpt2", Bottleneck()),
    ("t5", Bottleneck()),
    ("bart", Compacter(reduction=4)),
]


@pytest.mark.parametrize(("family", "method"), AT_FIRST, ids=lambda x: getattr(x, "name", x))
def test_at_first_not_a_bit_of_the_output_is_another(family, method):
    """A matrix of zeros adds zeros; a factor of one is none."""
    model = with_method(FAMILIES[family], method)
    params = tiny.unbox(model.init(jax.random.key(1)))
    base = {name: x for name, x in params.items() if name != ADAPTERS}
    plain = dataclasses.replace(model, adapters=())
    got, want = hidden(model, params), hidden(plain, base)
    assert np.array_equal(got, want) and np.abs(want).max() > 0.1


STACKS = {"bert": 1, "gpt2": 1, "llama": 1, "t5": 2, "bart": 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_there_are_as_many_parameters_as_the_formulas_say(family):
    """LoRA: rank x (in + out) for each projection; bottlenecks: 2 d b + b + d for each sublayer."""
    config = FAMILIES[family]
    count = lambda method: num_parameters(
        tiny.unbox(with_method(config, method).abstract())[ADAPTERS]
    )
    attention = config.self_attention()
    keys = attention.num_kv_heads * attention.head_dim
    queries = attention.num_heads * attention.head_dim
    attentions = {"t5": 3, "bart": 3}.get(family, 1) * L  # an encoder, and twice in a decoder
    assert count(Lora(rank=5)) == attentions * 5 * (H + queries + H + keys)
    sublayers = {"t5": 5, "bart": 5}.get(family, 2) * L
    narrow = H // 4
    assert count(Bottleneck(reduction=4)) == sublayers * (2 * H * narrow + narrow + H)
    small = 2 * 4 * (H // 4 + narrow // 4) + narrow + H
    assert count(Compacter(reduction=4)) == sublayers * small + 4**3
    assert count(Compacter(reduction=4, shared=False)) == sublayers * (small + 2 * 4**3)
    stacks = STACKS[family] * L
    assert count(Ia3()) == attentions * 2 * keys + stacks * F
    assert count(Prefix(length=7)) == attentions * 2 * 7 * keys
    only = Prefix(length=7, where=("encoder", "decoder"))
    assert count(only) == stacks * 2 * 7 * keys


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_compacter_is_a_bottleneck_of_kronecker_products(shared, remat):
    config = dataclasses.replace(FAMILIES["gpt2"], remat=remat)
    model = with_method(config, Compacter(reduction=2, rank=2, shared=shared, activation="relu"))
    params = tiny.random_params(model, scale=0.5)
    own, whole = flatten(params[ADAPTERS]), {}
    for module in ("decoder/layers/attention", "decoder/layers/feed_forward"):
        for name in ("down", "up"):
            left, right = (own[f"{module}/own_{name}_{side}"] for side in ("left", "right"))
            rule = own["shared/own_rule" if shared else f"{module}/own_{name}_rule"]
            rule = np.broadcast_to(rule, (L, 4, 4, 4))
            whole[f"{module}/own_{name}"] = np.stack(
                [
                    sum(np.kron(rule[i, n], left[i, n] @ right[i, n]) for n in range(4))
                    for i in range(L)
                ]
            )
            whole[f"{module}/own_{name}_bias"] = own[f"{module}/own_{name}_bias"]
    plain = with_method(config, Bottleneck(reduction=2))
    want = plain.encode({**params, ADAPTERS: unflatten(whole)}, BATCH)
    got = jax.jit(model.encode)(params, BATCH)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    bare = {**params, ADAPTERS: jax.tree.map(jnp.zeros_like, params[ADAPTERS])}
    assert np.abs(got - model.encode(bare, BATCH)).max() > 0.1
    slope = jax.grad(lambda p: jnp.sum(jnp.sin(model.encode(p, BATCH))))(params)
    assert all(np.any(x) for x in flatten(slope[ADAPTERS]).values())


@pytest.mark.parametrize("method", [Bottleneck(place="parallel"), Lora(), Compacter(reduction=4)])
def test_what_is_added_has_a_weight(method):
    config = dataclasses.replace(FAMILIES["gpt2"], num_layers=1)
    params = tiny.random_params(with_method(config, method))
    seen = []

    def watch(compute, args, kwargs, context):
        y = compute(*args, **kwargs)
        if context.module.name in ("query", "attention") and context.method_name == "__call__":
            seen.append(np.asarray(y))
        return y

    def first(weight):
        model = with_method(config, dataclasses.replace(method, weight=weight))
        seen.clear()
        with nn.intercept_methods(watch), jax.disable_jit():
            model.encode(params, BATCH)
        return seen[0 if method.name == "lora" else 1]

    zero = {**params, ADAPTERS: jax.tree.map(jnp.zeros_like, params[ADAPTERS])}
    one, two = first(1.0), first(0.25)
    params, kept = zero, params
    none, params = first(1.0), kept
    assert np.abs(one - none).max() > 1e-3
    np.testing.assert_allclose(two - none, 0.25 * (one - none), rtol=0, atol=1e-6)


PARTS = {"a": Bottleneck(reduction=4), "b": Compacter(reduction=4, weight=0.5)}


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_fusion_that_is_certain_takes_one_and_gives_all_parameters_a_gradient(remat):
    """With a query that points at what one of them gives, and V the identity."""
    config = dataclasses.replace(FAMILIES["gpt2"], num_layers=1, remat=remat)
    model = Model(config, adapters=attached({**PARTS, "own": Fusion(of=("a", "b"))}))
    params = tiny.random_params(model, scale=0.4)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(model.encode(p, BATCH)))))(params)
    assert all(np.any(x) for x in flatten(slope[ADAPTERS]).values())

    flat = flatten(params)
    for path, x in flat.items():
        if path.endswith("a_up"):
            flat[path] = np.zeros_like(x)
        if path.endswith("a_up_bias"):
            flat[path] = 0.5 * np.eye(1, H, dtype=x.dtype)  # what `a` gives, always
        if path.endswith("/own_query_bias"):
            flat[path] = 1e4 * np.eye(1, H, dtype=x.dtype)
        if path.endswith(("/own_key", "/own_query", "/own_value")):
            one = np.zeros((H, H)) if path.endswith("query") else np.eye(H)
            flat[path] = one[None].astype(x.dtype)
        if "/b_" in path:
            flat[path] = 0.1 * x
    got = model.encode(unflatten(flat), BATCH)
    alone = Model(config, adapters=attached({"a": PARTS["a"]}))
    kept = {n: x for n, x in flat.items() if not any(s in n for s in ("/own_", "/b_"))}
    want = alone.encode(unflatten(kept), BATCH)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_a_sum_reads_the_same_in_each_and_begins_without_a_change():
    config = dataclasses.replace(FAMILIES["gpt2"], num_layers=1)
    same = dataclasses.replace(PARTS["a"], weight=0.5)
    model = Model(config, adapters=attached({"a": same, "b": same, "own": Sum(of=("a", "b"))}))
    params = tiny.random_params(model, scale=0.4)
    twice = {
        path: flatten(params)[path.replace("/b_", "/a_")] if "/b_" in path else x
        for path, x in flatten(params).items()
    }
    alone = Model(config, adapters=attached({"a": PARTS["a"]}))
    once = {path: x for path, x in twice.items() if "/b_" not in path}
    got, want = hidden(model, unflatten(twice)), hidden(alone, unflatten(once))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)  # the average of one and itself
    first = tiny.unbox(model.init(jax.random.key(1)))
    base = {name: x for name, x in first.items() if name != ADAPTERS}
    plain = dataclasses.replace(model, adapters=())
    assert np.array_equal(hidden(model, first), hidden(plain, base))


@pytest.mark.parametrize(
    ("peft", "what"),
    [
        ({"own": Fusion(of=("a", "c"))}, "no such adapter"),
        ({"own": Fusion(of=("a", "b")), "more": Sum(of=("a", "b"))}, "taken over twice"),
        ({"x": Lora(), "own": Sum(of=("a", "x"))}, "is of bottlenecks"),
    ],
)
def test_what_cannot_be_fused_is_refused(peft, what):
    with pytest.raises(UserError, match=what):
        attached({**PARTS, **peft})


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("place", ["sequential", "parallel"])
def test_a_bottleneck_reads_what_the_sublayer_gives_or_is_given(family, place):
    """Houlsby's and He's, by their formulas, in the place of the first feed-forward layer."""
    method = Bottleneck(reduction=4, after=("feed_forward",), place=place, scale=3.0)
    model = with_method(dataclasses.replace(FAMILIES[family], num_layers=1), method)
    params = tiny.random_params(model)
    seen = {}

    def watch(compute, args, kwargs, context):
        y = compute(*args, **kwargs)
        name = context.module.name
        if name in ("feed_forward", "feed_forward_norm") and context.method_name == "__call__":
            seen.setdefault(name, []).append((args[0], y))
        return y

    stack = model.config.stacks[0].name
    base = {name: x for name, x in params.items() if name != ADAPTERS}
    plain = dataclasses.replace(model, adapters=(), config=model.config)
    scan = lambda m, p: m.encode(p, BATCH)
    with nn.intercept_methods(watch), jax.disable_jit():
        want_hidden = scan(plain, base)
    x, h = seen["feed_forward"][0]
    own = {
        name.rsplit("/", 1)[1].removeprefix("own_"): value[0]
        for name, value in flatten(params[ADAPTERS][stack]).items()
    }
    read = h if place == "sequential" else x
    inner = np.maximum(np.asarray(read) @ own["down"] + own["down_bias"], 0)
    want = np.asarray(h) + 3.0 * (inner @ own["up"] + own["up_bias"])
    seen.clear()
    with nn.intercept_methods(watch), jax.disable_jit():
        got_hidden = scan(model, params)
    got = seen["feed_forward"][0][1]
    assert np.abs(got_hidden - want_hidden).max() > 1e-3
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Lora(rank=0), "rank"),
        (lambda: Lora(targets=()), "no targets"),
        (lambda: Lora(rank_by_target={"query": 0}), "rank must be above 0"),
        (lambda: Bottleneck(after=()), "not a choice of sublayers"),
        (lambda: Bottleneck(reduction=0.5), "reduction"),
        (lambda: Prefix(length=0), "length"),
        (lambda: Compacter(rank=0), "rank"),
        (lambda: Fusion(of=("a",)), "not a choice of adapters"),
        (lambda: Compacter(dimension=3).check(FAMILIES["bert"]), "dimension"),
        (lambda: Lora(magnitude=True, weight=0.5), "weight"),
        (lambda: Ia3(targets=(), inputs=()), "no targets"),
    ],
)
def test_settings_out_of_range_are_refused(make, error):
    with pytest.raises(UserError) as caught:
        make()
    assert error in f"{caught.value.what} {caught.value.where}"


# --- Rows of tokens, and tables that are the output, too ---


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_rows_of_tokens_change_the_table_and_the_output_as_if_they_were_in_it(family):
    method = Tokens(ids=(7, 0, 31))
    model = with_method(FAMILIES[family], method, (CAUSAL_LM,))
    params = jax.tree.map(jnp.asarray, tiny.random_params(model, scale=0.5))
    plain, merged = merge_adapters(model, params)
    before, after = (flatten(x) for x in (params, merged))
    changed = [name for name in after if np.any(after[name] != before[name])]
    own = {"embeddings/tokens/embedding"} | ({"causal_lm/output/kernel"} & after.keys())
    assert {*changed} == own and num_parameters(params[ADAPTERS]) == 3 * H * len(own)
    for name in own:
        table = [x.T if name.endswith("kernel") else x for x in (before[name], after[name])]
        np.testing.assert_array_equal(np.flatnonzero(np.any(table[0] != table[1], 1)), [0, 7, 31])

    states = jax.jit(hidden, static_argnums=0)(model, params)
    np.testing.assert_allclose(states, hidden(plain, merged), rtol=0, atol=1e-5)
    logits = model.head(model.head_params(params, "causal_lm"), "causal_lm", states)
    np.testing.assert_allclose(
        logits, plain.head(merged, "causal_lm", states), rtol=0, atol=2e-6 * np.abs(logits).max()
    )


def test_a_lora_of_a_table_that_is_the_output_cannot_be_merged():
    method = Lora(targets=("tokens",))
    for family, is_tied in (("gpt2", True), ("llama", False)):
        model = with_method(FAMILIES[family], method, (CAUSAL_LM,))
        params = jax.tree.map(jnp.asarray, tiny.random_params(model))
        if is_tied:
            with pytest.raises(UserError, match="the table of tokens is the output's, too"):
                merge_adapters(model, params)
        else:
            plain, merged = merge_adapters(model, params)
            want = hidden(model, params)
            np.testing.assert_allclose(hidden(plain, merged), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"tokens": ("a", "a")}, {"ids": (1, 1)}, {"ids": (-1,)}])
def test_a_choice_of_no_tokens_or_of_one_twice_is_refused(settings):
    with pytest.raises(UserError, match="not a choice of tokens"):
        Tokens(**settings)
    with pytest.raises(UserError, match="no rows of these tokens"):
        Tokens(ids=(10**6,)).check(FAMILIES["gpt2"])
