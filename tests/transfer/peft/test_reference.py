"""What the library `adapters` makes of the same weights, where it computes the same
(`adapters_reference.py` wrote it down)."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.core.layer_names import ADAPTERS
from jaxssl.core.names import flatten, unflatten
from jaxssl.models.layers import unbox
from jaxssl.run.adapters import attached
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.compacter import Compacter
from jaxssl.transfer.peft.fusion import Fusion

HOULSBY = Bottleneck(reduction=4)
PARALLEL = Bottleneck(reduction=2, after=("feed_forward",), place="parallel", scale=4.0)
CASES = {
    "bottleneck": {"a": HOULSBY},
    "parallel": {"a": PARALLEL},
    "compacter": {"a": Compacter(reduction=2)},
    "fusion": {"a": HOULSBY, "b": Bottleneck(reduction=2), "fused": Fusion(of=("a", "b"))},
}
LEAVES = {
    "adapter_down.0.weight": "down",
    "adapter_down.0.bias": "down_bias",
    "adapter_up.weight": "up",
    "adapter_up.bias": "up_bias",
    "adapter_down.0.W_left": "down_left",
    "adapter_down.0.W_right": "down_right",
    "adapter_down.0.b": "down_bias",
    "adapter_up.W_left": "up_left",
    "adapter_up.W_right": "up_right",
    "adapter_up.b": "up_bias",
    "query.weight": "query",
    "query.bias": "query_bias",
    "key.weight": "key",
    "key.bias": None,  # it adds the same to all scores
    "value.weight": "value",
}
PLACE = re.compile(
    r"encoder\.layer\.(\d)\.(attention\.)?output\.(?:adapters|adapter_fusion_layer)\.([ab,]+)\.(.*)"
)


@pytest.fixture(scope="module")
def given():
    with np.load(Path(__file__).with_name("adapters_reference.npz")) as file:
        return dict(file)


@pytest.fixture(scope="module")
def base(given, tmp_path_factory):
    """(the model, its parameters)."""
    place = tmp_path_factory.mktemp("reference")
    (place / "config.json").write_text(
        json.dumps({**json.loads(str(given["config"])), "architectures": ["BertModel"]})
    )
    own = {n.removeprefix("model/"): x for n, x in given.items() if n.startswith("model/")}
    save_file(own, place / "model.safetensors")
    found = open_model(place)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = flatten(unbox(found.model.abstract()))
    wanted = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here) for n, x in shapes.items()}
    return found.model, {name: found.read(name, x) for name, x in wanted.items()}


def adapters_of(given, case):
    """The adapters' parameters of a case, by our names."""
    found: dict[str, dict[int, np.ndarray]] = {}
    whole = {}
    for name, x in given.items():
        if not name.startswith(f"{case}/") or name.endswith("/hidden"):
            continue
        if name.endswith("shared_parameters.a.phm_rule"):
            whole[f"{ADAPTERS}/shared/a_rule"] = x
            continue
        place = PLACE.fullmatch(name.partition("/")[2])
        assert place is not None, name
        layer, attention, adapter, ending = place.groups()
        leaf = LEAVES[ending]
        if leaf is None:
            continue
        module = "attention" if attention else "feed_forward"
        path = f"{ADAPTERS}/encoder/layers/{module}/{'fused' if ',' in adapter else adapter}_{leaf}"
        x = x.T if ending.endswith("weight") else x
        found.setdefault(path, {})[int(layer)] = x
    return {**whole, **{path: np.stack([x[0], x[1]]) for path, x in found.items()}}


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_one_name_compute_the_same(case, given, base):
    plain, params = base
    model = dataclasses.replace(plain, adapters=attached(CASES[case]))
    params = {**params, **adapters_of(given, case)}
    shapes = flatten(unbox(model.abstract()))
    assert {n: x.shape for n, x in params.items()} == {n: x.shape for n, x in shapes.items()}
    batch = tiny.rows([[row.astype(np.int32)] for row in given["ids"]])
    got, want = jax.jit(model.encode)(unflatten(params), batch), given[f"{case}/hidden"]
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
