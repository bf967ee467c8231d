"""Layer-wise learning rates against the powers written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxssl.core.names import flatten
from jaxssl.models.heads import LabelHead
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.optim.adamw import AdamW
from jaxssl.optim.build import make_optimizer
from jaxssl.optim.layerwise import depth_factors, scale_by_depth
from jaxssl.optim.schedules import Constant

LAYERS, DECAY = 4, 0.8
DEPTHS = {"encoder": LAYERS}
HEAD = LabelHead(name="classify", size=2)


def shapes(segments=()):
    config = tiny.bert(num_layers=LAYERS, segments=segments)
    return unbox(Model(config, (HEAD,)).abstract())


@pytest.mark.parametrize("bug", [False, True])
@pytest.mark.parametrize("segments", [(), (3, 1), (1, 1, 2)])
def test_powers_fall_from_the_head_to_the_embeddings(bug, segments):
    factors = flatten(depth_factors(shapes(segments), DECAY, DEPTHS, bug))
    more = int(bug)
    found = {}
    for name, factor in factors.items():
        if "layers" in name:
            found.setdefault(name.split("/", 2)[2], []).append((name, np.ravel(factor)))
        else:
            power = LAYERS + 1 + more if name.startswith("embeddings") else 0
            assert factor == pytest.approx(DECAY**power), name
    for parts in found.values():
        rates = np.concatenate([x for _, x in sorted(parts)])
        want = [DECAY ** (LAYERS - i + more) for i in range(LAYERS)]
        np.testing.assert_allclose(rates, want, rtol=1e-6)


def test_each_stack_falls_from_its_own_top():
    depths = {"encoder": 3, "decoder": 2, "generator/encoder": 1}
    tree = {
        "embeddings": {"embedding": np.zeros((5, 2))},
        "encoder": {"layers[0:2]": {"k": np.zeros((2, 4))}, "layers[2:3]": {"k": np.zeros((1, 4))}},
        "decoder": {"layers": {"k": np.zeros((2, 4))}},
        "generator": {"encoder": {"layers": {"k": np.zeros((1, 4))}}},
        "adapters": {
            "embeddings": {"lora_a": np.zeros((5, 1))},
            "encoder": {"layers[2:3]": {"lora_a": np.zeros((1, 4, 1))}},
            "classify": {"lora_a": np.zeros((4, 1))},
        },
    }
    found = {path: np.ravel(x) for path, x in flatten(depth_factors(tree, DECAY, depths)).items()}
    want = {
        "embeddings/embedding": [DECAY**4],
        "encoder/layers[0:2]/k": [DECAY**3, DECAY**2],
        "encoder/layers[2:3]/k": [DECAY],
        "decoder/layers/k": [DECAY**2, DECAY],
        "generator/encoder/layers/k": [DECAY],
        "adapters/embeddings/lora_a": [DECAY**4],
        "adapters/encoder/layers[2:3]/lora_a": [DECAY],
        "adapters/classify/lora_a": [1],
    }
    assert found.keys() == want.keys()
    for path, powers in want.items():
        np.testing.assert_allclose(found[path], powers, rtol=1e-6)


def test_the_top_layer_has_one_power_as_intended_and_two_as_in_electras_code():
    kernel = "encoder/layers/attention/query/kernel"
    right = flatten(depth_factors(shapes(), DECAY, DEPTHS))[kernel]
    wrong = flatten(depth_factors(shapes(), DECAY, DEPTHS, electra_bug=True))[kernel]
    assert float(right[-1].ravel()[0]) == pytest.approx(DECAY)
    assert float(wrong[-1].ravel()[0]) == pytest.approx(DECAY**2)


def test_updates_and_weight_decay_are_scaled_alike():
    """An optimizer with the factor is one with a smaller rate, layer by layer."""
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes())
    grads = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), params)
    config = dict(learning_rate=0.1, schedule=Constant(), clip_norm=None)
    plain, _ = make_optimizer(AdamW(**config), 10, 1)
    scaled, _ = make_optimizer(AdamW(**config, layer_decay=DECAY), 10, 1, DEPTHS)
    first, _ = plain.update(grads, plain.init(params), params)
    second, _ = scaled.update(grads, scaled.init(params), params)
    factors = depth_factors(params, DECAY, DEPTHS)
    want = jax.tree.map(lambda x, f: x * f, first, factors)
    for a, b in zip(jax.tree.leaves(second), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert jax.tree.leaves(scale_by_depth(DECAY, DEPTHS).init(params)) == []
