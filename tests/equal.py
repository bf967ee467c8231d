"""The same steps on one device and on many: how far apart they come out, and a table of that.

What slow tests find they note with `note`; `make test-slow` shows all of it at its end.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
import optax
import tiny

from jaxssl.core.names import flatten, matches
from jaxssl.core.types import Vocabulary
from jaxssl.models.model import Model, ModelConfig
from jaxssl.objectives.base import Objective
from jaxssl.parallel.rules import AXES
from jaxssl.program.phase import Phases, born
from jaxssl.program.program import Stage
from jaxssl.program.state import State, layout
from jaxssl.run.adapters import attached
from jaxssl.transfer.peft.base import Method

STEPS = 20
LOSSES = 1e-5
"""The largest relative difference of a loss."""
GRADIENTS = 3e-6
"""The largest relative L2 of the difference of a leaf of the first gradient."""
NO_GRADIENT = ("key/bias", "answer/output/bias")
"""Ends of the paths of leaves that have no gradient but rounding: a softmax over keys, or over
tokens, ignores what is added to all of them."""
NOTED = "equal"
"""The property of a test's report that `table` reads."""
EIGHT = {"data": 2, "fsdp": 2, "tensor": 2}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What is trained.

    Attributes:
      batch: makes the rows; not called before they are needed.
      peft: adapters by name; with some, they and the heads alone are trained.
    """

    objective: Objective
    model: ModelConfig
    batch: Callable[[], dict[str, np.ndarray]]
    vocabulary: Vocabulary
    learning_rate: float = 0.003
    peft: Mapping[str, Method] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Taken:
    """What `STEPS` steps made.

    Attributes:
      losses: float [STEPS].
      gradient: the first one's leaves by path.
      params: all parameters at the end, by path.
      first: the state before them.
    """

    losses: np.ndarray
    gradient: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    first: State


# --- Steps --------------------------------------------------------------------------------------


def model_of(case: Case) -> Model:
    """With the networks that the objective needs beside the main one."""
    wanted = dict(case.objective.networks(case.model))
    main = wanted.pop("", None)
    others = tuple(
        Model(network.config or case.model, network.heads, root=name, ties=network.ties)
        for name, network in wanted.items()
    )
    return Model(
        case.model,
        case.objective.heads,
        ties=main.ties if main else (),
        others=others,
        adapters=attached(case.peft),
    )


def take(case: Case, over: jax.sharding.Mesh, first: State | None = None) -> Taken:
    """The steps over a mesh, of one batch again and again.

    Args:
      first: the state before them, which then need not be drawn anew: that takes a third of the
        time.
    """
    case.objective.check(case.model, case.vocabulary)
    model, batch = model_of(case), case.batch()
    trained = ("adapters/**", *(f"{head}/**" for head in model.head_parts))
    chosen = lambda path: not case.peft or any(matches(pattern, path) for pattern in trained)
    program = tiny.program(
        model,
        case.objective,
        optax.sgd(case.learning_rate, momentum=0.0),  # its state is the last gradient
        batch,
        over=over,
        vocabulary=case.vocabulary,
        stages=(Stage(0, chosen),),
    )
    with jax.set_mesh(over):
        phase = Phases(program).at(0)
        state = born(phase) if first is None else jax.device_put(first, layout(phase.abstract))
    first = jax.tree.map(np.array, jax.device_get(state))  # a step takes what it is given
    losses, gradient = [], {}
    for step in range(STEPS):
        state, out = tiny.take(phase, state, batch)
        losses.append(float(out["loss"]))
        if step == 0:
            gradient = arrays(state.opt_state[0].trace)
    assert int(state.skipped) == 0
    params = {**arrays(state.kept), **arrays(state.params)}
    return Taken(np.array(losses), gradient, params, first)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """Copies of the leaves of a tree, by path."""
    return {path: np.array(leaf) for path, leaf in flatten(jax.device_get(tree)).items()}


# --- Differences ----------------------------------------------------------------------------------


def of_losses(got: Sequence[float], want: Sequence[float]) -> float:
    """The largest relative difference."""
    assert len(got) == len(want) and np.isfinite(want).all()
    return float(np.max(np.abs(np.subtract(got, want)) / np.abs(want)))


def of_leaves(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The relative L2 of each leaf of a gradient; of those that have none, what is there relative
    to the whole gradient."""
    errors = tiny.relative_l2(got, want)
    whole = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in want.values()))
    for path in [path for path in errors if path.endswith(NO_GRADIENT)]:
        errors[path] = float(max(np.linalg.norm(x[path]) for x in (got, want)) / whole)
    return errors


def check(got: Taken, want: Taken) -> tuple[float, float]:
    """(the largest difference of losses, that of leaves of the first gradient), both within their
    bounds."""
    assert len({*want.losses}) == STEPS, "every step changed something"
    losses, leaves = of_losses(got.losses, want.losses), of_leaves(got.gradient, want.gradient)
    assert losses <= LOSSES, (losses, got.losses, want.losses)
    assert max(leaves.values()) <= GRADIENTS, {k: v for k, v in leaves.items() if v > GRADIENTS}
    return losses, max(leaves.values())


# --- Meshes ---------------------------------------------------------------------------------------


def meshes(*counts: int) -> list[dict[str, int]]:
    """All meshes over so many devices: each axis alone, and all combinations of axes. The smaller
    ones come first."""
    sizes = [n for n in range(1, max(counts) + 1) if any(count % n == 0 for count in counts)]
    shapes = itertools.product(sizes, repeat=len(AXES))
    found = [dict(zip(AXES, shape)) for shape in shapes if math.prod(shape) in counts]
    return sorted(found, key=lambda mesh: math.prod(mesh.values()))


def split_over(mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of more than one device."""
    return tuple(axis for axis, size in mesh.items() if size > 1)


def named(mesh: Mapping[str, int]) -> str:
    """`data 2 x tensor 4`."""
    return " x ".join(f"{axis} {mesh[axis]}" for axis in split_over(mesh)) or "one device"


# --- The table ------------------------------------------------------------------------------------


def note(
    record_property: Callable[[str, object], None],
    what: str,
    mesh: Mapping[str, int],
    losses: float,
    gradients: float | None = None,
    processes: int = 1,
) -> None:
    """Has a test's differences in the table."""
    row = {"what": what, "mesh": named(mesh), "devices": math.prod(mesh.values())}
    row |= {"processes": processes, "losses": losses, "gradients": gradients}
    record_property(NOTED, row)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines: of each thing that was trained, by processes and devices, the largest differences."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["processes"], row["what"], row["devices"])):
        key = row["what"], row["processes"], row["devices"]
        groups.setdefault(key, []).append(row)
    lines = [("trained", "processes x devices", "meshes", "losses", "first gradients")]
    for (what, processes, devices), found in groups.items():
        meshes = [row["mesh"] for row in found]
        cells = [
            _worst([(row[name], row["mesh"]) for row in found if row[name] is not None])
            for name in ("losses", "gradients")
        ]
        shape = f"{processes} x {devices // processes}"
        lines.append((what, shape, meshes[0] if len(meshes) == 1 else str(len(meshes)), *cells))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _worst(found: Sequence[tuple[float, str]]) -> str:
    if not found:
        return "-"
    value, mesh = max(found)
    return f"{value:.1e}" + (f" ({mesh})" if len(found) > 1 else "")
