"""How arrays lie on a mesh in words and bytes, and large ones that are whole and need not be."""

import math

import jax
import jax.numpy as jnp
import pytest
import tiny
import toy

from jaxssl.core.errors import UserError
from jaxssl.core.names import flatten
from jaxssl.models.model import Model
from jaxssl.models.t5 import T5Config
from jaxssl.objectives.causal_lm import CausalLm
from jaxssl.objectives.masked_lm import MaskedLm
from jaxssl.optim.adafactor import Adafactor
from jaxssl.parallel.mesh import MeshConfig, abstract_mesh
from jaxssl.parallel.rules import make_rules, use_rules
from jaxssl.program.placement import LARGE, bytes_here, check_split, placements, whole_leaves
from jaxssl.program.state import abstract_params
from jaxssl.run.build import build

GPT = Model(tiny.gpt2(), CausalLm().heads)
TABLE = "embeddings/positions/embedding"


def placed(model, rules=None, **sizes):
    """{path: its placement} on a mesh that is not there."""
    mesh = abstract_mesh(MeshConfig(**{"data": 1, **sizes}), None)
    with use_rules(rules or make_rules({})):
        return {each.path: each for each in placements(abstract_params(model), mesh)}


def test_a_placement_says_what_splits_an_array():
    found = placed(GPT, data=2, fsdp=4, tensor=2)
    up = found["decoder/layers/feed_forward/up/kernel"]
    assert (up.logical, up.told) == ("layers, embed, mlp", "fsdp 4 on axis 1, tensor 2 on axis 2")
    assert (up.num_bytes, up.own_bytes) == (4 * 2 * 16 * 32, 4 * 2 * 16 * 32 // 8)
    norm = found["decoder/layers/attention_norm/scale"]
    assert (norm.logical, norm.told) == ("layers, norm", "whole")
    assert norm.num_bytes == norm.own_bytes == 4 * 2 * 16
    both = placed(GPT, make_rules({"embed": ["fsdp", "tensor"]}), fsdp=2, tensor=2)[TABLE]
    assert both.told == "fsdp 2 x tensor 2 on axis 1"


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)], ids=str)
def test_bytes_on_a_device_are_those_that_lie_there(sizes):
    mesh = tiny.mesh(*sizes)
    params = tiny.shard_params(GPT, tiny.random_params(GPT), mesh)
    there = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
    whole = sum(x.nbytes for x in jax.tree.leaves(params))
    assert bytes_here(abstract_params(GPT), mesh) == (whole, there)
    own = placements(abstract_params(GPT), mesh)
    assert sum(each.own_bytes for each in own) == there
    for each in own:
        assert flatten(params)[each.path].addressable_shards[0].data.nbytes == each.own_bytes


def refused(found):
    with pytest.raises(UserError, match="lies whole on devices that could split it") as error:
        check_split(found.values())
    return error.value


def long(rows, **changes):
    return Model(tiny.gpt2(max_positions=rows, num_heads=4, **changes), CausalLm().heads)


ROWS = LARGE // (4 * 16)
"""Of a table of positions of 64 MiB."""


def test_a_large_table_that_no_axis_splits_is_refused():
    error = refused(placed(long(ROWS), tensor=4))
    assert error.where == f"{TABLE} [{ROWS}, 16]"
    got = str(error.got)
    assert got.startswith("64.0 MiB on each device, the same along tensor 4: ")
    assert f"axis 0 (positions, {ROWS}) has no rule" in got
    assert "axis 1 (embed, 16) goes by fsdp 1" in got
    assert f"'mesh.parameters={{{TABLE}: {{positions: [tensor]}}}}' splits it" in str(error.fix)
    assert "mesh.replicated=true" in str(error.fix)


def test_what_the_error_advises_splits_it():
    asked = make_rules({}, {TABLE: {"positions": ["tensor"]}})
    found = placed(long(ROWS), asked, tensor=4)
    assert found[TABLE].told == "tensor 4 on axis 0"
    check_split(found.values())


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (ROWS - 16, {"tensor": 4}),  # not large
        (ROWS, {"data": 8}),  # replicas, on purpose
        (ROWS, {}),
        (ROWS, {"fsdp": 2}),
        (ROWS, {"fsdp": 2, "tensor": 2}),  # 32 MiB on each device
        (ROWS, {"fsdp": 2, "data": 2}),
    ],
    ids=str,
)
def test_what_is_small_on_a_device_or_lies_in_shards_is_not(rows, sizes):
    check_split(placed(long(rows), **sizes).values())


def test_what_a_layout_leaves_whole_is_meant_so():
    check_split(placed(long(ROWS), make_rules({}, {TABLE: {"embed": []}}), fsdp=4).values())
    by_table = refused(placed(long(ROWS), make_rules({"embed": []}), fsdp=4))
    assert "axis 1 (embed, 16) has no rule" in str(by_table.got)


def test_an_axis_that_does_not_divide_is_named():
    error = refused(placed(long(ROWS + 1), tensor=4))
    assert f"axis 0 (positions, {ROWS + 1}) has no rule and does not divide by tensor 4" in str(
        error.got
    )
    assert "{embed: [tensor]}" in str(error.fix)
    whole = make_rules({"heads": [], "kv_heads": [], "vocab": [], "mlp": []})
    odd = placed(long(ROWS + 1, hidden_size=20), whole, tensor=8)
    assert "none of its axes can be split by tensor" in str(refused(odd).fix)


def test_a_relative_bias_and_stacked_norms_are_small_at_any_size_there_is():
    """T5 11B: 24 layers of 1024, 128 heads; a bias [32, 128] and norms [24, 1024]."""
    config = T5Config(
        vocab_size=32128,
        hidden_size=1024,
        num_layers=24,
        num_heads=128,
        head_width=128,
        intermediate_size=65536,
        max_positions=512,
    )
    found = placed(Model(config), fsdp=8, tensor=8)
    check_split(found.values())
    whole = [each for each in found.values() if each.told == "whole"]
    assert whole and max(each.own_bytes for each in whole) < 1 << 20
    biases = [each for each in found.values() if each.shape == (32, 128)]
    assert len(biases) == 2 and {each.told for each in biases} == {"tensor 8 on axis 1"}


def test_an_optimizers_state_without_axes_counts():
    """Adafactor's is whole on every device: small where it is factored."""
    mesh = abstract_mesh(MeshConfig(fsdp=8), None)
    model = Model(tiny.bert(hidden_size=256, vocab_size=1 << 16), MaskedLm().heads)

    def state(**changes):
        optimizer = Adafactor(learning_rate=0.1, **changes).direction()
        return jax.eval_shape(optimizer.init, abstract_params(model))

    check_split(whole_leaves(state(), mesh, "optimizer state "))
    with pytest.raises(UserError, match="lies whole") as error:
        check_split(whole_leaves(state(factored_from=1 << 20), mesh, "optimizer state "))
    assert str(error.value.where).startswith("optimizer state ")
    assert "embedding" in str(error.value.where)
    assert jnp.dtype("float32").itemsize * math.prod((1 << 16, 256)) == LARGE


@pytest.mark.parametrize("frozen", [False, True])
def test_a_run_is_refused_before_anything_is_computed(byte_store, tmp_path, frozen):
    long = (f"model.max_positions={ROWS}", "mesh.data=4", "mesh.tensor=2")
    frozen = ("freezing.preset=top", "freezing.top=1") if frozen else ()

    def made(*more):
        return build(toy.configured(byte_store, tmp_path / "run", "gpt2", *long, *frozen, *more))

    with pytest.raises(UserError, match="lies whole on devices"):
        made()
    assert made("mesh.replicated=true").work.program.mesh.shape["tensor"] == 2
    split = f"mesh.parameters={{{TABLE}: {{positions: [tensor]}}}}"
    assert made(split).work.program.mesh.shape["data"] == 4
