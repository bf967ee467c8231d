"""Which parameters are trained: each preset's names written out, ranges of layers, and mistakes."""

import functools

import numpy as np
import optax
import pytest
import tiny

from jaxssl.core.errors import UserError
from jaxssl.core.layer_names import layer_names
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.heads import LabelHead
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.transfer.freezing import Freezing, choose, choose_stages, cut, is_trained, trained_mask

LAYERS = 4
HEAD = LabelHead(name="classify", size=3)
ENDS = {"bert": "encoder", "gpt2": "decoder"}
BIASES = [
    f"{part}/bias"
    for part in (
        *(f"attention/{name}" for name in ("query", "key", "value", "output")),
        "attention_norm",
        "feed_forward/up",
        "feed_forward/down",
        "feed_forward_norm",
    )
]
NORMS = [
    f"{norm}/{leaf}"
    for norm in ("attention_norm", "feed_forward_norm")
    for leaf in ("bias", "scale")
]
KERNELS = [
    *(f"attention/{name}/kernel" for name in ("query", "key", "value", "output")),
    *("feed_forward/up/kernel", "feed_forward/down/kernel"),
]
LAYER = sorted({*BIASES, *NORMS, *KERNELS})
"""Every parameter of a layer."""
HEADS = {
    "bert": ["classify/output/bias", "classify/output/kernel", "pooler/bias", "pooler/kernel"],
    "gpt2": ["classify/output/bias", "classify/output/kernel"],
}
OUTSIDE = {
    "bert": [
        "embeddings/norm/bias",
        "embeddings/norm/scale",
        "embeddings/positions/embedding",
        "embeddings/token_types/embedding",
        "embeddings/tokens/embedding",
    ],
    "gpt2": [
        "embeddings/positions/embedding",
        "embeddings/tokens/embedding",
        "norm/bias",
        "norm/scale",
    ],
}
"""What is neither in a layer nor in a head."""
BODY_NORMS = {
    "bert": ["embeddings/norm/bias", "embeddings/norm/scale"],
    "gpt2": ["norm/bias", "norm/scale"],
}


@functools.cache
def params(family, **changes):
    config = {"bert": tiny.bert, "gpt2": tiny.gpt2}[family](num_layers=LAYERS, **changes)
    return unbox(Model(config, (HEAD,)).abstract())


def trained(family, **options):
    decisions = choose(Freezing(**options), params(family), ["classify"])
    return sorted(name for name, value in decisions.items() if value)


def in_layers(family, layers, leaves):
    return [f"{ENDS[family]}/layers[{layer}]/{leaf}" for layer in layers for leaf in leaves]


# --- Presets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_presets_train_exactly_these_names(family):
    every = in_layers(family, range(LAYERS), LAYER)
    top = in_layers(family, (2, 3), LAYER)
    biases = in_layers(family, range(LAYERS), BIASES)
    norms = in_layers(family, range(LAYERS), NORMS)
    final = [name for name in OUTSIDE[family] if name.startswith("norm/")]
    outer_biases = [name for name in OUTSIDE[family] if name.endswith("/bias")]
    want = {
        "full": [*every, *OUTSIDE[family], *HEADS[family]],
        "head": HEADS[family],
        "top": [*top, *final, *HEADS[family]],
        "bias": [*biases, *outer_biases, *HEADS[family]],
        "norms": [*norms, *BODY_NORMS[family], *HEADS[family]],
    }
    for preset, names in want.items():
        assert trained(family, preset=preset) == sorted(names), preset
    assert trained(family, preset="full") == sorted(
        name for path, x in flatten(params(family)).items() for name in layer_names(path, LAYERS)
    )


def test_top_counts_layers_from_the_last():
    for count in (1, 3, LAYERS):
        chosen = in_layers("bert", range(LAYERS - count, LAYERS), LAYER)
        assert trained("bert", preset="top", top=count) == sorted([*chosen, *HEADS["bert"]])


# --- Patterns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("encoder/layers[1:3]/**", (1, 2)),
        ("encoder/layers[-2:]/**", (2, 3)),
        ("encoder/layers[:-3]/**", (0,)),
        ("encoder/layers[2]/**", (2,)),
        ("encoder/layers[-1]/**", (3,)),
        ("encoder/layers/**", (0, 1, 2, 3)),
        ("**/layers[0:2]/**", (0, 1)),
    ],
)
def test_ranges_of_layers_stand_for_their_layers(pattern, layers):
    want = [*in_layers("bert", layers, LAYER), *HEADS["bert"]]
    assert trained("bert", preset="head", train=(pattern,)) == sorted(want)


def test_a_range_may_be_of_one_leaf_of_each_layer():
    got = trained("gpt2", preset="head", train=("decoder/layers[1:3]/attention/{query,value}/*",))
    leaves = [
        f"attention/{name}/{leaf}" for name in ("query", "value") for leaf in ("bias", "kernel")
    ]
    assert got == sorted([*in_layers("gpt2", (1, 2), leaves), *HEADS["gpt2"]])


def test_freeze_comes_before_train_and_train_before_the_preset():
    embeddings = ("embeddings/**",)
    assert not set(OUTSIDE["bert"]) & set(trained("bert", train=embeddings, freeze=embeddings))
    assert set(OUTSIDE["bert"]) <= set(trained("bert", preset="head", train=embeddings))
    got = trained("bert", preset="head", train=("**/layers[3]/**",), freeze=("**/kernel",))
    assert got == sorted(
        name
        for name in [*in_layers("bert", (3,), LAYER), *HEADS["bert"]]
        if not name.endswith("/kernel")
    )


# --- Cutting the stack ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "segments"),
    [
        ({"preset": "full"}, ()),
        ({"preset": "head"}, ()),
        ({"preset": "bias"}, ()),
        ({"preset": "top", "top": 1}, (3, 1)),
        ({"preset": "head", "train": ("**/layers[1]/**",)}, (1, 1, 2)),
        ({"freeze": ("**/layers[2]/attention/key/bias",)}, (2, 1, 1)),
    ],
)
def test_the_stack_is_cut_so_that_each_leaf_is_wholly_one_or_the_other(options, segments):
    decisions = choose(Freezing(**options), params("bert"), ["classify"])
    assert cut([decisions]) == ({"encoder": segments} if segments else {})
    leaves = flatten(params("bert", segments=segments))
    kept = {path for path, leaf in leaves.items() if is_trained(decisions, path, leaf)}
    # By counting: the leaves' sizes are those of the layers that were chosen.
    count = sum(leaves[path].size for path in kept)
    whole = flatten(params("bert"))
    sizes = {
        name: leaf.size // len(layer_names(path, LAYERS))
        for path, leaf in whole.items()
        for name in layer_names(path, LAYERS)
    }
    assert count == sum(sizes[name] for name, value in decisions.items() if value)


def test_the_mask_works_with_plain_optax():
    decisions = choose(Freezing(preset="bias"), params("bert"), ["classify"])
    values = tiny.random_params(Model(tiny.bert(num_layers=LAYERS), (HEAD,)))
    mask = trained_mask(decisions, values)
    labels = {True: optax.sgd(1.0), False: optax.set_to_zero()}
    optimizer = optax.partition(labels, mask)
    gradients = values  # any will do that are not zero
    updates, _ = optimizer.update(gradients, optimizer.init(values), values)
    for name, update in flatten(updates).items():
        is_moved = bool(np.any(np.asarray(update)))
        expected = name.endswith("/bias") or name.startswith(("classify/", "pooler/"))
        assert is_moved == expected == flatten(mask)[name], name


# --- Several stacks ---------------------------------------------------------------------------


DEPTHS = {"encoder": 6, "decoder": 4, "generator/encoder": 2}
SEVERAL = unflatten(
    {
        "embeddings/tokens/embedding": np.zeros((3, 2)),
        "classify/output/kernel": np.zeros((2, 2)),
        **{f"{stack}/layers/attention/query/kernel": np.zeros(n) for stack, n in DEPTHS.items()},
        **{f"{stack}/layers/norm/bias": np.zeros(n) for stack, n in DEPTHS.items()},
    }
)


def layers_trained(**options):
    """{stack: the layers of which anything is trained}."""
    decisions = choose(Freezing(**options), SEVERAL, ["classify"])
    found = {stack: set() for stack in DEPTHS}
    for name, value in decisions.items():
        stack, _, layer = name.partition("/layers[")
        if value and layer:
            found[stack].add(int(layer.partition("]")[0]))
    return {stack: sorted(layers) for stack, layers in found.items()}


@pytest.mark.parametrize(
    ("options", "encoder", "decoder", "generator"),
    [
        ({"preset": "top", "top": 1}, [5], [3], [1]),
        ({"preset": "top", "top": 3}, [3, 4, 5], [1, 2, 3], [0, 1]),
        ({"train": ("*/layers[-2:]/**",)}, [4, 5], [2, 3], []),
        ({"train": ("**/layers[-2:]/**",)}, [4, 5], [2, 3], [0, 1]),
        ({"train": ("encoder/layers[-1]/**",)}, [5], [], []),
        ({"train": ("generator/encoder/layers[0]/**",)}, [], [], [0]),
        ({"train": ("**/layers[3]/**",)}, [3], [3], []),
        ({"train": ("{encoder,decoder}/layers[:-3]/attention/**",)}, [0, 1, 2], [0], []),
    ],
)
def test_ranges_count_in_the_depth_of_each_stack(options, encoder, decoder, generator):
    found = layers_trained(**{"preset": "head", **options})
    assert found == {"encoder": encoder, "decoder": decoder, "generator/encoder": generator}


def test_each_stack_is_cut_where_it_must_be():
    decisions = choose(Freezing(preset="top", top=2), SEVERAL, ["classify"])
    assert cut([decisions]) == {"encoder": (4, 2), "decoder": (2, 2)}
    assert is_trained(decisions, "decoder/layers[2:4]/norm/bias", np.zeros(2))
    assert not is_trained(decisions, "encoder/layers[0:4]/norm/bias", np.zeros(4))


def test_gradual_unfreezing_ends_with_the_deepest_stack():
    stages = choose_stages(Freezing(preset="head", gradual=1.0), SEVERAL, ["classify"])
    trained = [sum(value for value in decisions.values()) for _, decisions in stages]
    # The head; each stage a layer (two leaves) of each stack that has one left; the embeddings.
    assert trained == [1, 7, 13, 17, 21, 23, 25, 26]
    with pytest.raises(UserError, match="not so many layers") as error:
        choose(Freezing(preset="top", top=7), SEVERAL, ["classify"])
    assert error.value.expected == "at most 6"


# --- Mistakes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["train", "freeze"])
def test_a_pattern_that_matches_nothing_is_refused_with_a_suggestion(where):
    with pytest.raises(UserError, match="matches no parameter") as error:
        trained("bert", **{where: ("embeding/tokens/embedding",)})
    assert error.value.where == f"freezing.{where}"
    assert "did you mean 'embeddings/tokens/embedding'" in error.value.fix
    for inside in ("4", "-5", "9:", "3:1", "", "-", "-:", "top"):
        with pytest.raises(UserError, match="matches no parameter"):
            trained("bert", **{where: (f"encoder/layers[{inside}]/**",)})


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(UserError, match="not so many layers") as error:
        trained("gpt2", preset="top", top=LAYERS + 1)
    assert error.value.where == "freezing.top" and error.value.got == LAYERS + 1
    with pytest.raises(UserError, match="out of range"):
        Freezing(top=0)


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match="everything is frozen"):
        trained("bert", freeze=("**",))
    with pytest.raises(UserError, match="everything is frozen"):
        trained("gpt2", preset="head", freeze=("classify/**",))


@pytest.mark.parametrize("preset", ["bias", "norms"])
def test_a_preset_that_finds_nothing_in_the_body_is_refused(preset):
    left = {name: params("bert")[name] for name in ("classify", "pooler")}
    left["embeddings"] = {"tokens": params("bert")["embeddings"]["tokens"]}
    with pytest.raises(UserError, match=f"no {preset} to train"):
        choose(Freezing(preset=preset), left, ["classify"])
