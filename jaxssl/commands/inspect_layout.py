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
from jaxssl.core.names import flatten, split
from jaxssl.core.precision import Codes
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model, num_parameters
from jaxssl.optim.build import widened
from jaxssl.parallel.mesh import MeshConfig, abstract_mesh
from jaxssl.parallel.rules import use_rules
from jaxssl.program.coded import abstract_codes, is_codable
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
        model, is_trained, is_saved = _as_saved(run_dir, config, model)
        state = _state(config, model, is_trained)
        sizes = (bytes_here(boxed, mesh), bytes_here(state.opt_state, mesh))
        averages = bytes_here(state.ema, mesh)
        coded, as_codes = _in_codes(config.precision.frozen, model, is_saved, mesh)
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    yield f"  parameters: {num_parameters(boxed):,}, on {_devices(mesh.size)} ({axes})"
    yield from (_line(each, mesh.size) for each in placed)
    trained = num_parameters(state.params)
    yield f"  all parameters: {_told(*sizes[0], mesh.size)}"
    if coded[0]:
        yield (
            f"  of these the base's frozen kernels: {_told(*coded, mesh.size)}; held in "
            f"{config.precision.frozen}, with scales: {_told(*as_codes, mesh.size)}"
        )
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


def _as_saved(run_dir: Path, config: RunConfig, model: Model) -> tuple[Model, Choice, Choice]:
    """The model in segments; which parameters are trained, and which are saved, by path: as the
    newest checkpoint has them. Without one, of training everything."""
    steps = CheckpointManager(run_dir / "checkpoints", config.checkpoint).steps()
    if not steps:
        return model, everything, everything
    saved = _saved(run_dir.absolute() / "checkpoints" / str(max(steps)))
    leaves = flatten(unbox(model.abstract()))
    names = {name for path, leaf in leaves.items() for name in _layers(path, leaf)}
    trained = {name: saved.get(name, "kept") != "kept" for name in names}
    if segments := freezing.cut([trained]):
        model = model.with_segments(segments)
    shapes = flatten(unbox(model.abstract()))

    def chosen(decision: Mapping[str, bool]) -> Choice:
        return lambda path: freezing.is_trained(decision, path, shapes[path])

    return model, chosen(trained), chosen({name: name in saved for name in names})


def _in_codes(
    form: Codes | None, model: Model, is_saved: Choice, mesh: Any
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The bytes of all kernels that are held in codes, and on each device: as arrays, and as they
    are held."""
    kernels, _ = split(abstract_params(model), lambda path: is_codable(path) and not is_saved(path))
    if form is None or not kernels:
        return (0, 0), (0, 0)
    return bytes_here(kernels, mesh), bytes_of(abstract_codes(kernels, form, mesh))


def _state(config: RunConfig, model: Model, is_trained: Choice) -> Any:
    """The shapes of what training holds of a run."""
    own, _ = split(abstract_params(model), is_trained)
    optimizer = widened(config.optimizer.direction())
    has_ema = config.train.ema is not None
    return jax.eval_shape(lambda params: first_state(params, {}, optimizer, has_ema), own)


def _saved(checkpoint: Path) -> dict[str, str]:
    """{name of a layer's parameter: the part of the state that a checkpoint has it in}."""
    return {
        name: part
        for path, (part, leaf) in saved_leaves(checkpoint).items()
        for name in _layers(path, leaf)
    }


def _layers(path: str, leaf: Any) -> list[str]:
    return layer_names(path, leaf.shape[0] if is_stacked(path) else None)
