"""Presets of the mesh: what they make of the axes that are not given, and what contradicts them."""

from pathlib import Path

import jax
import pytest
import toy

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from jaxssl.run.recipes import load_config, upgraded_run


def sizes(config, devices):
    return {axis: n for axis, n in zip(config.wanted, config.sizes(devices)) if n > 1}


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"preset": "ddp"}, {"data": 16}),
        ({"preset": "fsdp"}, {"fsdp": 16}),
        ({"preset": "fsdp", "fsdp": 16}, {"fsdp": 16}),
        ({"preset": "fsdp", "data": 2}, {"data": 2, "fsdp": 8}),
        ({"preset": "fsdp", "data": -1, "fsdp": 4}, {"data": 4, "fsdp": 4}),
        ({"preset": "fsdp+tensor", "tensor": 4}, {"fsdp": 4, "tensor": 4}),
        ({"preset": "fsdp+tensor", "tensor": -1, "fsdp": 2}, {"fsdp": 2, "tensor": 8}),
        ({"preset": "fsdp+context", "context": 2}, {"fsdp": 8, "context": 2}),
        ({}, {"data": 16}),
        ({"fsdp": 4, "tensor": 2}, {"data": 2, "fsdp": 4, "tensor": 2}),
    ],
)
def test_a_preset_sets_what_is_not_given(given, made):
    assert sizes(MeshConfig(**given), 16) == made


def test_a_preset_fits_one_device():
    assert sizes(MeshConfig(preset="ddp"), 1) == sizes(MeshConfig(preset="fsdp"), 1) == {}


@pytest.mark.parametrize(
    ("given", "where", "fix"),
    [
        ({"preset": "ddp", "fsdp": 8}, "preset, fsdp", "mesh.preset=fsdp,"),
        ({"preset": "ddp", "tensor": 2}, "preset, tensor", "mesh.preset=null,"),
        ({"preset": "fsdp", "tensor": 2}, "preset, tensor", "mesh.preset=fsdp+tensor,"),
        ({"preset": "fsdp", "fsdp": 1}, "preset, fsdp", "mesh.preset=ddp,"),
        ({"preset": "fsdp+tensor", "tensor": 1}, "preset, tensor", "mesh.preset=fsdp,"),
        ({"preset": "fsdp", "context": 2}, "preset, context", "mesh.preset=fsdp+context,"),
        (
            {"preset": "fsdp+context", "context": 2, "tensor": 2},
            "preset, tensor",
            "mesh.preset=null,",
        ),
    ],
)
def test_what_contradicts_a_preset_is_refused(given, where, fix):
    with pytest.raises(UserError, match="contradict each other") as error:
        MeshConfig(**given)
    assert error.value.where == where and fix in str(error.value.fix)


@pytest.mark.parametrize(
    ("preset", "axis"), [("fsdp+tensor", "tensor"), ("fsdp+context", "context")]
)
def test_shards_beside_fsdp_are_to_be_given(preset, axis):
    with pytest.raises(UserError, match=f"needs the number of shards along {axis}") as error:
        MeshConfig(preset=preset)
    assert error.value.where == axis and f"mesh.{axis}=2" in str(error.value.fix)


def test_a_layer_above_a_preset_gives_its_axes():
    """What is not given stays so in what is written down: the next layer may give it."""
    written = configuration.to_dict(MeshConfig(preset="fsdp"))
    assert written["fsdp"] is None
    again = configuration.load(MeshConfig, [written, {"data": 2}])
    assert sizes(again, 8) == {"data": 2, "fsdp": 4}


def test_a_preset_goes_over_what_earlier_versions_wrote_of_a_mesh():
    """They wrote down what was not given, too."""
    old = {"mesh": {"data": -1, "fsdp": 1, "tensor": 1, "rules": {}, "compiler": {}}}
    mesh = upgraded_run(old)["mesh"]
    assert sizes(configuration.load(MeshConfig, [mesh]), 8) == {"data": 8}
    over = configuration.load(MeshConfig, [mesh, {"preset": "fsdp"}])
    assert sizes(over, 8) == {"fsdp": 8}
    split = upgraded_run({"mesh": {**old["mesh"], "data": 1, "fsdp": 8}})["mesh"]
    assert sizes(configuration.load(MeshConfig, [split]), 8) == {"fsdp": 8}
    own = {"mesh": {"preset": "fsdp", "data": -1, "fsdp": 2}}
    assert upgraded_run(own) == own  # of this version: what was given stays


def test_a_mesh_over_devices_that_are_not_there():
    assert jax.device_count() == 8
    assert abstract_mesh(MeshConfig(preset="fsdp"), 4096).shape["fsdp"] == 4096
    mesh = abstract_mesh(MeshConfig(fsdp=16), None)
    assert (mesh.shape["data"], mesh.shape["fsdp"]) == (1, 16)
    assert "context" not in mesh.shape
    with pytest.raises(UserError, match="does not fit"):
        abstract_mesh(MeshConfig(fsdp=16), 8)


def test_it_has_the_axes_of_one_over_devices():
    for config in (MeshConfig(preset="fsdp"), MeshConfig(fsdp=2, context=2, tensor=2)):
        mesh, real = abstract_mesh(config, 8), make_mesh(config)
        assert (mesh.shape, mesh.axis_types) == (real.shape, real.axis_types)


def mesh_of(*layers, overrides=()):
    recipe = toy.recipe_of("bert", Path("store"), Path("run"), 136)
    return load_config([recipe, *({"mesh": layer} for layer in layers)], overrides).mesh


def test_a_later_layer_with_a_preset_begins_anew():
    """Hardware files stand for all of a mesh; what comes above them changes it."""
    split, ddp = {"data": 1, "fsdp": 4, "tensor": 2, "rules": {"mlp": []}}, {"preset": "ddp"}
    made = mesh_of(split, ddp)
    assert sizes(made, 8) == {"data": 8} and made.rules == {"mlp": ()}
    assert sizes(mesh_of(ddp, {"preset": None, "fsdp": 4}), 8) == {"data": 2, "fsdp": 4}
    above = mesh_of({"preset": "fsdp"}, overrides=["mesh.data=2"])
    assert sizes(above, 8) == {"data": 2, "fsdp": 4}
    again = mesh_of({"preset": "fsdp"}, overrides=["mesh.preset=fsdp+tensor", "mesh.tensor=2"])
    assert sizes(again, 8) == {"fsdp": 4, "tensor": 2}
    for below, overrides in [(ddp, ["mesh.fsdp=8"]), (split, ["mesh.preset=ddp", "mesh.fsdp=8"])]:
        with pytest.raises(UserError, match="contradict each other"):
            mesh_of(below, overrides=overrides)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("laptop", None),
        ("eight-devices", {"fsdp": 8}),
        ("eight-devices-tensor", {"fsdp": 4, "tensor": 2}),
        ("tpu-pod", {"fsdp": 8}),
    ],
)
def test_a_hardware_file_stands_over_any_other(name, made):
    for below in ("laptop", "eight-devices", "eight-devices-tensor", "tpu-pod"):
        recipe = toy.recipe_of("bert", Path("store"), Path("run"), 136)
        mesh = load_config([recipe, f"hardware/{below}", f"hardware/{name}"]).mesh
        assert sizes(mesh, 8 if made else 1) == (made or {})
