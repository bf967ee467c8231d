"""How a run's parameters and its optimizer's state lie on a mesh, which need not be there: shapes
alone are read."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.parameter_index import saved_leaves
from jaxssl.core.bounds import refuse_below
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import is_stacked, layer_names
from jaxssl.core.names import flatten, split, unflatten
from jaxssl.core.precision import Codes
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, num_parameters
from jaxssl.optim.build import widened
from jaxssl.parallel.mesh import MeshConfig, abstract_mesh
from jaxssl.parallel.rules import use_rules
from jaxssl.program.coded import abstract_codes
from jaxssl.program.placement import (
    Placement,
    bytes_here,
    bytes_of,
    check_patterns,
    check_split,
    placements,
)
from jaxssl.program.state import Choice, abstract_params, everything, first_state
from jaxssl.run.config import RunConfig
from jaxssl.run.parameters import ALL, layers_in_codes
from jaxssl.transfer import freezing

ENVIRONMENT = "environment.json"


def lines(
    run_dir: Path, config: RunConfig, model: Model, devices: int | None = None
) -> Iterator[str]:
    """Lines about each parameter of a run, and sums.

    Args:
      devices: of the mesh; None for those that it was trained on, or as few as its axes say.

    Raises:
      UserError: the mesh does not fit them, or a parameter the mesh.
    """
    mesh = _mesh(run_dir, config.mesh, devices)
    with use_rules(config.mesh.layout()):
        boxed = abstract_params(model)
        check_patterns(config.mesh.parameters, boxed)
        placed = placements(boxed, mesh)
        state = _state(run_dir, config, model)
        sizes = (bytes_here(boxed, mesh), bytes_here(state.opt_state, mesh))
        averages = bytes_here(state.ema, mesh)
        coded = _in_codes(run_dir, config.precision.frozen, flatten(boxed), mesh)
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    yield f"  parameters: {num_parameters(boxed):,}, on {_devices(mesh.size)} ({axes})"
    yield from (_line(each, mesh.size) for each in placed)
    trained = num_parameters(state.params)
    yield f"  all parameters: {_told(*sizes[0], mesh.size)}"
    if coded:
        plain, held = (_told(*each, mesh.size) for each in coded)
        yield f"  of these frozen kernels: {plain}; in {config.precision.frozen}: {held}"
    yield (
        f"  state of {config.optimizer.name} for the {trained:,} that are trained: "
        f"{_told(*sizes[1], mesh.size)}"
        + (", in the memory of the hosts" if config.mesh.offload_optimizer else "")
    )
    if state.ema:
        yield f"  averages: {_told(*averages, mesh.size)}"
    yield from _refusal(config.mesh, placed)


def _mesh(run_dir: Path, config: MeshConfig, devices: int | None) -> Any:
    refuse_below(1, devices=devices)
    if devices is not None:
        return abstract_mesh(config, devices)
    try:
        return abstract_mesh(config, _noted_devices(run_dir))
    except UserError:
        return abstract_mesh(config, None)


def _noted_devices(run_dir: Path) -> int | None:
    """How many devices a run was trained on, where it says so: `8 TPU v5 lite`."""
    path = run_dir / ENVIRONMENT
    if not path.is_file():
        return None
    fix = "delete it: the next start of the run writes it"
    noted = read_json(path, what="the note of what a run ran on is damaged", fix=fix)
    count = str(noted.get("devices", "")).partition(" ")[0]
    return int(count) if count.isdigit() else None


def _devices(count: int) -> str:
    return f"{count:,} devices" if count > 1 else "one device"


def _line(array: Placement, devices: int) -> str:
    kind = f"    {array.path:<50} {array.dtype} {list(array.shape)} ({array.logical})"
    split = f" {array.told}" if devices > 1 else ""
    return f"{kind}{split}: {_told(array.num_bytes, array.own_bytes, devices)}"


def _told(whole: int, own: int, devices: int) -> str:
    return f"{whole:,} bytes" + (f", {own:,} on each device" if devices > 1 else "")


def _refusal(config: MeshConfig, placed: list[Placement]) -> Iterator[str]:
    """What a start of training would say of large arrays that are whole."""
    try:
        if not config.replicated:
            check_split(placed)
    except UserError as error:
        yield f"  training so is refused: {error.what}: {error.where}: {error.got}"
        yield f"    {error.fix}"


# --- What is trained -----------------------------------------------------------------------------


def _in_codes(
    run_dir: Path, form: Codes | None, leaves: Mapping[str, Any], mesh: Any
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The bytes of all kernels that a run holds in codes, and on each device: as arrays, and as
    they are held."""
    noted = layers_in_codes(run_dir)
    if form is None or not noted:
        return None
    kernels = {}
    for path, layers in noted.items():
        box = leaves[path]
        depth = box.value.shape[0] if ALL in layers else len(layers)
        shape = (depth, *box.value.shape[1:])
        kernels[path] = box.replace(value=jax.ShapeDtypeStruct(shape, box.value.dtype))
    tree = unflatten(kernels)
    return bytes_here(tree, mesh), bytes_of(abstract_codes(tree, form, mesh))


def _state(run_dir: Path, config: RunConfig, model: Model) -> Any:
    """The shapes of what training holds of a run, by its newest checkpoint; without one, of
    training everything."""
    steps = CheckpointManager(run_dir / "checkpoints", config.checkpoint).steps()
    is_trained: Choice = everything
    if steps:
        step = run_dir.absolute() / "checkpoints" / str(max(steps))
        model, is_trained = _trained(model, step)
    own, _ = split(abstract_params(model), is_trained)
    optimizer = widened(config.optimizer.direction())
    has_ema = config.train.ema is not None
    return jax.eval_shape(lambda params: first_state(params, {}, optimizer, has_ema), own)


def _trained(model: Model, checkpoint: Path) -> tuple[Model, Choice]:
    """The model in segments, and which of its parameters a checkpoint has as trained, by path."""
    saved = {
        name
        for path, (part, leaf) in saved_leaves(checkpoint).items()
        for name in _layers(path, leaf)
        if part != "kept"
    }
    leaves = flatten(unbox(model.abstract()))
    decision = {
        name: name in saved for path, leaf in leaves.items() for name in _layers(path, leaf)
    }
    if segments := freezing.cut([decision]):
        model = model.with_segments(segments)
    shapes = flatten(unbox(model.abstract()))
    return model, lambda path: freezing.is_trained(decision, path, shapes[path])


def _layers(path: str, leaf: Any) -> list[str]:
    return layer_names(path, leaf.shape[0] if is_stacked(path) else None)
