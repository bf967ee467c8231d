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
from jaxssl.core.names import flatten
from jaxssl.models.adapters import Attached
from jaxssl.models.bart import BartConfig
from jaxssl.models.layer_context import Memory
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model, num_parameters
from jaxssl.models.t5 import T5Config
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.prefix import Prefix

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
    ("gpt2", Bottleneck()),
    ("t5", Bottleneck()),
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
    stacks = STACKS[family] * L
    assert count(Ia3()) == attentions * 2 * keys + stacks * F
    assert count(Prefix(length=7)) == attentions * 2 * 7 * keys
    only = Prefix(length=7, where=("encoder", "decoder"))
    assert count(only) == stacks * 2 * 7 * keys


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
        (lambda: Ia3(targets=(), inputs=()), "no targets"),
    ],
)
def test_settings_out_of_range_are_refused(make, error):
    with pytest.raises(UserError) as caught:
        make()
    assert error in f"{caught.value.what} {caught.value.where}"
