"""Adapters side by side: a row of a batch has what it has alone with the adapter that it names."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import unflatten
from jaxssl.generate.decode import beam_search, generate
from jaxssl.generate.settings import Beams, Sampling
from jaxssl.models.adapters import Attached
from jaxssl.models.heads import CAUSAL_LM
from jaxssl.models.llama import LlamaConfig
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.compacter import Compacter
from jaxssl.transfer.peft.fusion import Sum
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.merge import by_module
from jaxssl.transfer.peft.own import BitFit
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.prompt import Prompt
from jaxssl.transfer.peft.side_by_side import side_by_side
from jaxssl.transfer.peft.tokens import Tokens

SHAPE = {**tiny.SHAPE, "max_positions": 48}
FAMILIES = {
    "gpt2": tiny.gpt2(max_positions=48),
    "llama": LlamaConfig(**{**SHAPE, "num_heads": 4, "num_kv_heads": 2}),
    "t5": T5Config(**SHAPE, **tiny.NO_DROPOUT, head_width=8),
}
TEXTS = tiny.random_documents([9, 6, 4, 7], 0)
ROWS = [1, 0, 2, 1]
NAMES = ("law", "news", "style")
KINDS = {
    "lora": Lora(targets=("all-linear", "tokens")),
    "ia3": Ia3(),
    "bottleneck": Bottleneck(reduction=4),
    "compacter": Compacter(reduction=4),
    "prefix": Prefix(length=2),
    "prompt": Prompt(length=3),
}


def three(family, method, scale=0.5):
    adapters = tuple(Attached(name, method) for name in NAMES)
    model = Model(FAMILIES[family], (CAUSAL_LM,), adapters=adapters)
    return model, jax.tree.map(jax.numpy.asarray, tiny.random_params(model, scale=scale))


def alone(model, params, name):
    """The model with one of its adapters."""
    kept = {}
    for module, arrays in by_module(params[ADAPTERS], model.adapters)[name].items():
        kept |= {f"{module}/{name}_{leaf}": x for leaf, x in arrays.items()}
    only = tuple(each for each in model.adapters if each.name == name)
    return dataclasses.replace(model, adapters=only), {
        **params,
        ADAPTERS: unflatten(kept),
    }


BEAMS = Beams(count=2)
CASES = [
    *(("gpt2", kind, None) for kind in KINDS),
    *(("llama", "lora", None), ("t5", "lora", None), ("gpt2", "lora", BEAMS)),
    *(("t5", "prompt", None), ("t5", "prompt", BEAMS)),
]


@pytest.mark.parametrize(("family", "kind", "beams"), CASES)
def test_each_row_is_written_as_with_its_adapter_alone(family, kind, beams):
    model, params = three(family, KINDS[kind])
    greedy = Sampling(max_new_tokens=6, temperature=0)

    def written(model, params, texts, **more):
        if beams is not None:
            return beam_search(model, params, texts, greedy, beams, [], **more)
        return generate(model, params, texts, greedy, [], **more)

    beside, sets, numbers = side_by_side(model, params)
    assert numbers == dict(zip(NAMES, range(3)))
    together = written(beside, sets, TEXTS, adapter=ROWS)
    others = set()
    for text, row, made in zip(TEXTS, ROWS, together):
        (single,) = written(*alone(model, params, NAMES[row]), [text])
        assert made.tokens.tolist() == single.tokens.tolist()
        assert made.log_probability == pytest.approx(single.log_probability, abs=2e-4)
        (another,) = written(*alone(model, params, NAMES[(row + 1) % 3]), [text])
        others.add(abs(another.log_probability - single.log_probability) > 1e-2)
    assert others == {True}, "the adapters do not do the same"


def test_settings_of_training_may_differ():
    first, second = Lora(dropout=0.1, second_factor=16.0, from_="runs/a"), Lora(frozen=True)
    adapters = (Attached("a", first), Attached("b", second))
    model = Model(FAMILIES["gpt2"], (CAUSAL_LM,), adapters=adapters)
    beside, _, numbers = side_by_side(model, tiny.random_params(model))
    assert numbers == {"a": 0, "b": 1} and beside.adapters[0].method == Lora()


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ((Lora(),), "two adapters or more"),
        ((Lora(), Ia3()), "ia3"),
        ((Lora(), Lora(rank=4)), "rank=4"),
        ((Lora(), Lora(weight=0.5)), "weight=0.5"),
        ((Lora(layers=(0,)), Lora(layers=(0,))), "in all layers"),
        ((BitFit(), BitFit()), "by themselves"),
        ((Lora(targets=("causal_lm/output",)),) * 2, "causal_lm/output"),
    ],
)
def test_what_cannot_lie_side_by_side_is_refused(methods, told):
    adapters = tuple(Attached(f"a{i}", method) for i, method in enumerate(methods))
    model = Model(FAMILIES["llama"], (CAUSAL_LM,), adapters=adapters)
    with pytest.raises(UserError, match="cannot be chosen row by row") as caught:
        side_by_side(model, {ADAPTERS: {}, **tiny.random_params(model)})
    assert told in f"{caught.value.expected} {caught.value.got}"


def test_methods_that_are_of_all_rows_are_refused():
    for method in (Tokens(ids=(1,)), Lora(magnitude=True), Lora(initialization="pissa")):
        with pytest.raises(UserError, match="methods that a row can have by itself"):
            side_by_side(*three("gpt2", method))
    parts = (Attached("a", Bottleneck()), Attached("b", Bottleneck()))
    joined = Sum(of=("a", "b")).joined({"a": Bottleneck(), "b": Bottleneck()})
    model = Model(FAMILIES["gpt2"], adapters=(Attached("c", joined), *parts))
    with pytest.raises(UserError, match="row by row"):
        side_by_side(model, tiny.random_params(model))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Lora(targets=("query", "value")), Lora(targets=("value", "query"))),
        (Lora(), Lora(initialization="normal", dropout=0.1, learning_rate_factor=3.0)),
        (Prompt(length=3), Prompt(length=3, initialization="vocabulary")),
        (Prefix(length=2), Prefix(length=2, initial_scale=0.1)),
    ],
)
def test_how_adapters_began_and_in_which_order_they_name_targets_does_not_part_them(one, other):
    model, params = three("gpt2", one)
    unlike = tuple(Attached(x.name, other if x.name == "news" else one) for x in model.adapters)
    beside, sets, _ = side_by_side(dataclasses.replace(model, adapters=unlike), params)
    same, want, _ = side_by_side(model, params)
    assert beside.adapters == same.adapters
    jax.tree.map(np.testing.assert_array_equal, sets, want)
