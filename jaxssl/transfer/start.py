"""What a run starts from: stored parameters by a ledger, the others fresh, and the optimizer."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.ledger import Entry, InitConfig, Leaf, make_ledger
from jaxssl.checkpoint.manager import (
    CheckpointConfig,
    CheckpointManager,
    read_arrays,
    stored_arrays,
)
from jaxssl.checkpoint.origin import open_origin
from jaxssl.checkpoint.parameter_index import (
    BASE,
    ParameterIndex,
    ParameterSource,
    RawArrays,
    assemble,
    base_record,
    describe_base,
    read,
)
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.layer_names import canonical, is_stacked, layer_range
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model


@dataclass(frozen=True, eq=False)
class Start:
    """Where each parameter comes from; without entries, all are fresh.

    Attributes:
      fresh_top: layers at the top of the stack that are fresh, counted from the last.
      stored: what is restored.
      base: what the run notes of the checkpoint it starts from (`base_record`).
      moments: the checkpoint whose optimizer state is taken too.
    """

    entries: Sequence[Entry] = ()
    fresh_top: int = 0
    stored: ParameterIndex = ParameterIndex()
    base: Mapping[str, Any] | None = None
    moments: Path | None = None

    def lines(self) -> list[str]:
        """What is told of it: the ledger, and where it comes from."""
        if self.base is None:
            return []
        optimizer = "the optimizer's moments too" if self.moments else "the optimizer afresh"
        lead = f"from {describe_base(self.base)}, {optimizer}:"
        return [lead, *ledger.table(self.entries), *self.stored.notes]

    def is_verbatim(self, path: str, num_layers: int) -> bool:
        """Whether the base holds this leaf of the model as it is, so that it need not be kept."""
        is_copy = self.is_whole_copy(path, num_layers)
        return is_copy and not self._by_target[canonical(path)].is_cast

    def is_whole_copy(self, path: str, num_layers: int) -> bool:
        """Whether this leaf of the model has all values of the base's, cast or not."""
        entry = self._by_target.get(canonical(path))
        if entry is None or entry.action not in ("restored", "renamed"):
            return False
        return self._is_below_fresh(path, num_layers)

    def has_source(self, path: str, num_layers: int) -> bool:
        """Whether this leaf of the model was restored, renamed or resized, and not made fresh."""
        entry = self._by_target.get(canonical(path))
        is_stored = entry is not None and entry.source is not None
        return is_stored and self._is_below_fresh(path, num_layers)

    def _is_below_fresh(self, path: str, num_layers: int) -> bool:
        _, end = layer_range(path) or (0, num_layers if is_stacked(path) else 0)
        return end <= num_layers - self.fresh_top

    @functools.cached_property
    def _by_target(self) -> dict[str, Entry]:
        return {entry.target: entry for entry in self.entries if entry.target is not None}


def open_start(
    init: InitConfig | None, model: Model, checkpoint: CheckpointConfig, out: str
) -> Start:
    """Finds what a run starts from and decides for every parameter; nothing is read yet.

    A run that has saved something starts from the same checkpoint again, whichever is best now.

    Args:
      out: the directory of the run that starts.

    Raises:
      UserError: no such checkpoint, a parameter that is not covered, or an optimizer's state that
        cannot be taken.
    """
    if init is None or init.scratch:
        return Start()
    origin = open_origin(init.run_dir)
    source, stored = origin.open(init, checkpoint, _noted(Path(out)))
    start = plan_start(init, model, stored, origin.heads(stored, model.body_parts))
    start = dataclasses.replace(start, base=base_record(source, start.entries))
    if init.optimizer == "reset":
        return start
    _check_verbatim(start, model, source)
    return dataclasses.replace(start, moments=source.path)


def _noted(run_dir: Path) -> Mapping[str, Any] | None:
    """What a run that has saved something noted of the checkpoint it started from."""
    path = run_dir / ledger.FILE_NAME
    if not path.is_file() or not CheckpointManager(run_dir / "checkpoints").steps():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["from"]


def write_start(run_dir: Path, start: Start, *, keeps_base: bool) -> None:
    """Writes `ledger.json`, and with `keeps_base` `base.json`: the run's checkpoints then lack what
    the base holds. Removes what an earlier start that saved nothing has left.
    """
    if start.base is None:
        for name in (ledger.FILE_NAME, BASE):
            (run_dir / name).unlink(missing_ok=True)
        return
    ledger.write_ledger(run_dir / ledger.FILE_NAME, start.base, start.entries)
    if keeps_base:
        with atomic_write(run_dir / BASE) as file:
            json.dump(start.base, file, indent=1)


def _check_verbatim(start: Start, model: Model, source: ParameterSource) -> None:
    """Refuses to take moments where not all parameters are those they belong to."""
    num_layers = model.config.num_layers
    names = flatten(unbox(uncut(model).abstract()))
    changed = [name for name in names if not start.is_verbatim(name, num_layers)]
    if changed or source.has_averages:
        raise UserError(
            "the optimizer's state does not fit the parameters",
            where="init.optimizer",
            expected="reset, or a run whose parameters are all restored as they were trained",
            got=f"changed: {changed[0]}" if changed else "averages are restored (train.ema)",
            fix="set init.optimizer=reset",
        )


def restored_moments(checkpoint: Path, opt_state: Any) -> Any:
    """The optimizer's state in the directory of a step; counts of schedules stay as they are.

    Args:
      opt_state: of a fresh state.

    Raises:
      UserError: it is that of another optimizer.
    """
    names = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    there, here = names(stored_arrays(checkpoint)["opt_state"]), names(opt_state)
    if there != here:
        different = sorted(there.items() ^ here.items())
        raise UserError(
            "the stored state is that of another optimizer, or of other segments",
            where=f"init.optimizer, {checkpoint}",
            expected=f"{len(here)} arrays, as this run's optimizer has",
            got=f"{len(there)}; the first difference: {different[0][0]}",
            fix="configure the optimizer as it was (optimizer.*), or set init.optimizer=reset",
        )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), opt_state
    )
    found = read_arrays(checkpoint, {"opt_state": shapes})["opt_state"]
    is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
    choose = lambda fresh, old: fresh if is_schedule(fresh) else old
    return jax.tree.map(choose, opt_state, found, is_leaf=is_schedule)


def uncut(model: Model) -> Model:
    """The model with each of its stacks in one segment."""
    return dataclasses.replace(model, config=model.config.with_segments({}))


def plan_start(
    config: InitConfig,
    model: Model,
    stored: ParameterIndex,
    stored_heads: Sequence[str],
    *,
    is_whole: bool = False,
) -> Start:
    """Decides for every parameter; nothing is read yet.

    Args:
      stored_heads: the top-level names of the stored model's heads.
      is_whole: heads must be stored too: a run's own parameters, not those of its base.

    Raises:
      UserError: a parameter that is not covered; see `make_ledger`.
    """
    shapes = flatten(unbox(uncut(model).abstract()))
    target = {name: Leaf(tuple(x.shape), str(x.dtype)) for name, x in shapes.items()}
    heads = [] if is_whole else [head.name for head in model.heads]
    entries = make_ledger(
        config, target, stored.leaves(), target_heads=heads, source_heads=stored_heads
    )
    return Start(entries, config.fresh_top, stored)


def first_params(
    start: Start, model: Model, key: jax.Array, abstract: Params, wanted: Callable[[str], bool]
) -> Params:
    """The parameters a run starts from, each shard on its own device.

    What is fresh does not depend on segments: it is cut from the values of an uncut stack.

    Args:
      abstract: shapes and shardings of all the model's parameters.
      wanted: which leaves to make, by path; the others are neither read nor computed.
    """
    leaves = {path: leaf for path, leaf in flatten(abstract).items() if wanted(path)}
    by_target = start._by_target
    needed = {canonical(path): leaf for path, leaf in leaves.items()}
    sources = {
        entry.source: needed[name]
        for name, entry in by_target.items()
        if name in needed and entry.source is not None
    }
    raw = read(start.stored, list(sources), sources)
    ready = _taken_as_read(start, raw, leaves, model.config.num_layers)
    made = {path: leaf for path, leaf in leaves.items() if path not in ready}
    if not made:
        return unflatten(ready)
    names = {canonical(path) for path in made}

    def build(raw, key) -> dict[str, Any]:
        fresh = flatten(unbox(uncut(model).init(key)))  # XLA computes only what is used of it
        whole = {name: _value(start, by_target.get(name), fresh[name], raw) for name in names}
        return {path: _part(path, whole[canonical(path)]) for path in made}

    shardings = {path: leaf.sharding for path, leaf in made.items()}
    return unflatten({**ready, **jax.jit(build, out_shardings=shardings)(raw, key)})


def _taken_as_read(
    start: Start, raw: RawArrays, leaves: Mapping[str, Any], num_layers: int
) -> dict[str, jax.Array]:
    """The leaves that are an array as it was read, which so is not held twice. They leave `raw`."""
    ready = {}
    for path, leaf in leaves.items():
        if not start.is_whole_copy(path, num_layers) or layer_range(path) is not None:
            continue
        pieces = start.stored.pieces[str(start._by_target[path].source)]
        array = raw[str(pieces[0].source.path)][pieces[0].name]
        same = (array.shape, array.dtype, array.sharding)
        if len(pieces) == 1 and same == (leaf.shape, leaf.dtype, leaf.sharding):
            ready[path] = raw[str(pieces[0].source.path)].pop(pieces[0].name)
    return ready


def _value(
    start: Start, entry: Entry | None, fresh: jax.Array, raw: Mapping[str, Any]
) -> jax.Array:
    if entry is None or entry.source is None:
        return fresh
    assert entry.target is not None
    value = assemble(start.stored, raw, entry.source).astype(fresh.dtype)
    if entry.action == "resized":
        axis = ledger.resized_axis(entry.target, value.shape, fresh.shape)
        assert axis is not None
        kept = min(value.shape[axis], fresh.shape[axis])
        cut = lambda x, start, end: jax.lax.slice_in_dim(x, start, end, axis=axis)
        return jnp.concatenate([cut(value, 0, kept), cut(fresh, kept, None)], axis)
    if start.fresh_top and is_stacked(entry.target):
        kept = value.shape[0] - start.fresh_top
        return jnp.concatenate([value[:kept], fresh[kept:]])
    return value


def _part(path: str, whole: jax.Array) -> jax.Array:
    layers = layer_range(path)
    return whole if layers is None else whole[layers[0] : layers[1]]
