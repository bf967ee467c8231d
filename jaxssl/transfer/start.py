"""What a run starts from: stored parameters by a ledger, the others fresh, and the optimizer."""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.bases import ADOPTED, NETWORKS, by_network, describe_base, read_bases
from jaxssl.checkpoint.init_config import InitConfig
from jaxssl.checkpoint.ledger import Entry, Leaf, make_ledger
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
    Piece,
    RawArrays,
    assemble,
    base_record,
    read,
    under,
    within,
)
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json
from jaxssl.core.keys import init_key
from jaxssl.core.layer_names import ADAPTERS, canonical, is_stacked, layer_range, stack_of
from jaxssl.core.names import flatten, unflatten
from jaxssl.core.types import Params
from jaxssl.models.adapters import begun
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.transfer.growth import NO_PIECES, NewPieces, with_new_pieces, with_new_positions

Growth = Callable[[jax.Array, jax.Array], jax.Array]
"""From a stored parameter and a fresh one of the shape that is wanted to what it starts as."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where each parameter of all networks comes from; what has no entry is fresh.

    Attributes:
      fresh_from: {stack: the first of its layers that is fresh, with all above it}.
      stored: what is restored.
      base: what the run notes of the checkpoints it starts from: `base_record` of the main
        network's, and under `networks` those of others.
      moments: the checkpoint whose optimizer state is taken too.
      grown: how parameters are made whose new rows come from the stored ones, by target.
      adopted: what is noted of adapters that come from elsewhere, by name.
    """

    entries: Sequence[Entry] = ()
    fresh_from: Mapping[str, int] = field(default_factory=dict)
    stored: ParameterIndex = ParameterIndex()
    base: Mapping[str, Any] = field(default_factory=dict)
    moments: Path | None = None
    grown: Mapping[str, Growth] = field(default_factory=dict)
    adopted: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What is told of it: the ledger, and where it comes from."""
        if not self.base:
            return []
        optimizer = "the optimizer's moments too" if self.moments else "the optimizer afresh"
        bases = by_network(self.base).items()
        places = (f"{name + ' ' if name else ''}from {describe_base(base)}" for name, base in bases)
        lead = f"{', '.join(places)}, {optimizer}:"
        return [lead, *ledger.table(self.entries), *self.stored.notes]

    def is_verbatim(self, path: str) -> bool:
        """Whether the base holds this leaf of the model as it is, so that it need not be kept."""
        return self.is_whole_copy(path) and not self._by_target[canonical(path)].is_cast

    def is_whole_copy(self, path: str) -> bool:
        """Whether this leaf of the model has all values of the base's, cast or not."""
        entry = self._by_target.get(canonical(path))
        is_stored = entry is not None and entry.action in ("restored", "renamed")
        return is_stored and self._is_below_fresh(path)

    def has_source(self, path: str) -> bool:
        """Whether this leaf of the model was restored, renamed or resized, and not made fresh."""
        entry = self._by_target.get(canonical(path))
        return entry is not None and entry.source is not None and self._is_below_fresh(path)

    def taken(self) -> dict[str, tuple[Piece, ...]]:
        """{parameter of the model: what it comes from}; what is fresh is not there."""
        taken = {path: entry.source for path, entry in self._by_target.items()}
        return {path: self.stored.pieces[of] for path, of in taken.items() if of is not None}

    def _is_below_fresh(self, path: str) -> bool:
        first = self.fresh_from.get(stack_of(path) or "")
        layers = layer_range(path)
        return first is None or (layers is not None and layers[1] <= first)

    @functools.cached_property
    def _by_target(self) -> dict[str, Entry]:
        return {entry.target: entry for entry in self.entries if entry.target is not None}


def open_starts(
    inits: Mapping[str, InitConfig | None],
    model: Model,
    checkpoint: CheckpointConfig,
    out: str,
    new_pieces: Mapping[str, NewPieces] = {},
) -> Start:
    """Finds what the networks of a run start from and decides for every parameter; nothing is read
    yet.

    A run that has saved something starts from the same checkpoints again, whichever are best now.

    Args:
      inits: by the network's name; the main one's is empty.
      out: the directory of the run that starts.
      new_pieces: those that the run's tokenizer has besides those of what a network starts from,
        by the network's name.

    Raises:
      UserError: no such checkpoint, a parameter that is not covered, or an optimizer's state that
        cannot be taken.
    """
    noted, networks = _noted(Path(out)), model.networks
    starts = {
        name: _open_start(
            init,
            dataclasses.replace(networks[name], root=""),
            checkpoint,
            noted.get(name),
            new_pieces.get(name, NO_PIECES),
        )
        for name, init in inits.items()
        if init is not None and not init.scratch
    }
    if len(networks) == 1:
        return starts.get("", Start())
    if any(start.moments for start in starts.values()):
        raise UserError(
            "moments are restored for a run of one network alone",
            where="init.optimizer",
            expected="reset",
            got="restore",
        )
    return _united(starts, model)


def _open_start(
    init: InitConfig,
    model: Model,
    checkpoint: CheckpointConfig,
    noted: Mapping[str, Any] | None,
    new_pieces: NewPieces,
) -> Start:
    """Where one network starts, by its own names."""
    origin = open_origin(init.run_dir)
    source, stored = origin.open(init, checkpoint, noted)
    dropped = [*origin.heads(stored, model.body_parts), *model.config.left_out]
    if init.network:
        stored = within(init.network, stored)
        others = {name.split("/")[0] for name in stored.pieces} - {*model.body_parts}
        dropped = [*sorted(others), *model.config.left_out]
    borrowed = [tie.own for tie in model.ties]
    start = plan_start(init, model, stored, (*dropped, *borrowed), new_pieces=new_pieces)
    lead = f"{init.network}/" if init.network else ""
    base = base_record(source, start.entries, lead)
    start = dataclasses.replace(start, base=base)
    if init.optimizer == "reset":
        return start
    _check_verbatim(start, model, source)
    return dataclasses.replace(start, moments=source.path)


def _united(starts: Mapping[str, Start], model: Model) -> Start:
    """The starts of several networks as one of the tree of all."""
    if not starts:
        return Start()
    shapes = flatten(unbox(uncut(model).abstract()))
    others = [name for name in model.networks if name not in starts]
    fresh = {name: x for name, x in shapes.items() if model.network_of(name) in others}
    entries = [Entry("fresh", name, None, tuple(x.shape)) for name, x in fresh.items()]
    fresh_from, pieces, notes, grown = {}, {}, [], {}
    for network, start in starts.items():
        lead = f"{network}/" if network else ""
        entries += [_under(lead, entry) for entry in start.entries]
        fresh_from |= {lead + stack: layer for stack, layer in start.fresh_from.items()}
        pieces |= under(network, start.stored).pieces
        notes += start.stored.notes
        grown |= {lead + target: growth for target, growth in start.grown.items()}
    bases = {network: start.base for network, start in starts.items()}
    beside = {network: base for network, base in bases.items() if network}
    base = {**bases.get("", {}), **({NETWORKS: beside} if beside else {})}
    return Start(entries, fresh_from, ParameterIndex(pieces, tuple(notes)), base, grown=grown)


def _under(lead: str, entry: Entry) -> Entry:
    """An entry of a network as one of the tree of all, where `lead` comes before its paths."""
    target, source = (None if x is None else lead + x for x in (entry.target, entry.source))
    return dataclasses.replace(entry, target=target, source=source)


def _noted(run_dir: Path) -> dict[str, Any]:
    """What a run that has saved something noted of the checkpoints its networks started from."""
    path = run_dir / ledger.FILE_NAME
    if not path.is_file() or not CheckpointManager(run_dir / "checkpoints").steps():
        return {}
    what, fix = "the ledger of a run is damaged", "restore it from a copy"
    return read_bases(read_json(path, what=what, fix=fix).get("from"), path)


def write_start(run_dir: Path, start: Start, *, keeps_base: bool) -> None:
    """Writes `ledger.json`, and with `keeps_base` `base.json`: the run's checkpoints then lack what
    the base holds. Removes what an earlier start that saved nothing has left.
    """
    if start.base:
        noted = {**start.base, **({ADOPTED: start.adopted} if start.adopted else {})}
        ledger.write_ledger(run_dir / ledger.FILE_NAME, noted, start.entries)
    else:
        (run_dir / ledger.FILE_NAME).unlink(missing_ok=True)
    if start.base and keeps_base:
        with atomic_write(run_dir / BASE) as file:
            json.dump(start.base, file, indent=1)
    else:
        (run_dir / BASE).unlink(missing_ok=True)


def _check_verbatim(start: Start, model: Model, source: ParameterSource) -> None:
    """Refuses to take moments where not all parameters are those they belong to."""
    names = flatten(unbox(uncut(model).abstract()))
    changed = [name for name in names if not start.is_verbatim(name)]
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
    there, here = _shapes(stored_arrays(checkpoint)["opt_state"]), _shapes(opt_state)
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
    return jax.tree.map(
        lambda fresh, old: fresh if _is_schedule(fresh) else old,
        opt_state,
        found,
        is_leaf=_is_schedule,
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def uncut(model: Model) -> Model:
    """The model with each of its stacks in one segment."""
    return model.with_segments({})


def plan_start(
    config: InitConfig,
    model: Model,
    stored: ParameterIndex,
    stored_heads: Sequence[str],
    *,
    is_whole: bool = False,
    wanted: Callable[[str], bool] = lambda path: True,
    new_pieces: NewPieces = NO_PIECES,
) -> Start:
    """Decides for every parameter; nothing is read yet.

    Args:
      stored_heads: the top-level names of the stored model's heads.
      is_whole: heads must be stored too: a run's own parameters, not those of its base.
      wanted: the parameters that it is about, by path.
      new_pieces: those whose rows are made of others' (`init.new_pieces`).

    Raises:
      UserError: a parameter that is not covered; see `make_ledger`.
    """
    shapes = flatten(unbox(uncut(model).abstract()))
    target = {
        name: Leaf(tuple(x.shape), str(x.dtype)) for name, x in shapes.items() if wanted(name)
    }
    stored = ParameterIndex({n: x for n, x in stored.pieces.items() if wanted(n)}, stored.notes)
    heads = [] if is_whole else [*(head.name for head in model.heads), ADAPTERS]
    leaves = stored.leaves()
    entries = make_ledger(
        config,
        target,
        leaves,
        target_heads=heads,
        source_heads=stored_heads,
        new_pieces=new_pieces.ids,
    )
    top = config.fresh_top
    fresh_from = {stack.name: stack.depth - top for stack in model.stacks} if top else {}
    return Start(
        entries, fresh_from, stored, grown=_growths(config, model, entries, leaves, new_pieces)
    )


def _growths(
    config: InitConfig,
    model: Model,
    entries: Sequence[Entry],
    stored: Mapping[str, Leaf],
    new_pieces: NewPieces,
) -> dict[str, Growth]:
    """How parameters over pieces and positions are made that get rows made of others."""
    offset, found = model.config.body().position_offset, {}
    for entry in entries:
        if entry.action != "resized" or entry.layers or entry.target is None:
            continue
        assert entry.source is not None
        old = stored[entry.source].shape
        axis = ledger.resized_axis(entry.target, old, entry.shape)
        if ledger.is_over_pieces(entry.target) and new_pieces.before:
            found[entry.target] = functools.partial(
                with_new_pieces, pieces=new_pieces, axis=axis or 0
            )
        way = config.new_positions
        if ledger.is_over_positions(entry.target) and way != "fresh" and entry.shape[0] > old[0]:
            found[entry.target] = functools.partial(with_new_positions, offset=offset, way=way)
    return found


def first_params(
    start: Start, model: Model, seed: int, abstract: Params, wanted: Callable[[str], bool]
) -> Params:
    """The parameters a run starts from, each shard on its own device.

    What is fresh does not depend on segments: it is cut from the values of an uncut stack.

    Args:
      seed: of what is fresh.
      abstract: shapes and shardings of all the model's parameters.
      wanted: which leaves to make, by path; the others are neither read nor computed.
    """
    everything = flatten(abstract)
    leaves = {path: leaf for path, leaf in everything.items() if wanted(path)}
    by_target = start._by_target
    derived = {
        canonical(path): found
        for path in leaves
        if _is_fresh(by_target, path) and (found := begun(model.adapters, canonical(path)))
    }
    needed = {canonical(path): leaf for path, leaf in leaves.items()}
    of = {own for _, _, own in derived.values()} - needed.keys()
    shapes = flatten(unbox(uncut(model).abstract())) if of else {}
    needed |= {own: _laid_out_as(own, shapes[own], everything) for own in of}
    sources = {
        entry.source: needed[name]
        for name, entry in by_target.items()
        if name in needed and entry.source is not None
    }
    raw = read(start.stored, list(sources), sources)
    ready = _taken_as_read(start, raw, leaves)
    made = {path: leaf for path, leaf in leaves.items() if path not in ready}
    if not made:
        return unflatten(ready)
    names = {canonical(path) for path in made}

    def build(raw, seed) -> dict[str, Any]:  # one program for all seeds
        fresh = flatten(
            unbox(uncut(model).init(init_key(seed)))
        )  # XLA computes only what is used of it
        own = names | {path for _, _, path in derived.values()}
        whole = {name: _value(start, by_target.get(name), fresh[name], raw) for name in own}
        for name, (adapter, parameter, path) in derived.items():
            shape = fresh[name].shape[is_stacked(path) :]
            site = path.rsplit("/", 1)[0]
            begin = functools.partial(adapter.method.begin, parameter, site, shape=shape)
            begin = jax.vmap(begin) if is_stacked(path) else begin
            whole[name] = begin(whole[path]).astype(fresh[name].dtype)
        return {path: _part(path, whole[canonical(path)]) for path in made}

    shardings = {path: leaf.sharding for path, leaf in made.items()}
    return unflatten({**ready, **jax.jit(build, out_shardings=shardings)(raw, np.uint32(seed))})


def _is_fresh(by_target: Mapping[str, Entry], path: str) -> bool:
    entry = by_target.get(canonical(path))
    return entry is None or entry.source is None


def _laid_out_as(name: str, shape: Any, leaves: Mapping[str, Any]) -> Any:
    """The shape of a whole parameter with the layout of its first segment."""
    first = next(leaf for path, leaf in leaves.items() if canonical(path) == name)
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=first.sharding)


def _taken_as_read(start: Start, raw: RawArrays, leaves: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The leaves that are an array as it was read, which so is not held twice. They leave `raw`.

    An array that is read for two networks is copied for each: a step is given both, and may keep
    neither.
    """
    ready = {}
    whole = [p for p in leaves if start.is_whole_copy(p) and layer_range(p) is None]
    pieces_of = {path: start.stored.pieces[str(start._by_target[path].source)] for path in whole}
    readers = Counter(
        (str(piece.source.path), piece.name)
        for entry in start._by_target.values()
        if entry.source is not None
        for piece in start.stored.pieces[entry.source]
    )
    for path, pieces in pieces_of.items():
        leaf, place = leaves[path], (str(pieces[0].source.path), pieces[0].name)
        if readers[place] > 1:
            continue
        array = raw[place[0]][place[1]]
        same = (array.shape, array.dtype, array.sharding)
        if len(pieces) == 1 and same == (leaf.shape, leaf.dtype, leaf.sharding):
            ready[path] = raw[place[0]].pop(place[1])
    return ready


def _value(
    start: Start, entry: Entry | None, fresh: jax.Array, raw: Mapping[str, Any]
) -> jax.Array:
    if entry is None or entry.source is None:
        return fresh
    assert entry.target is not None
    value = assemble(start.stored, raw, entry.source).astype(fresh.dtype)
    if entry.layers:
        value = value[np.array(entry.layers)]
    elif entry.target in start.grown:
        return start.grown[entry.target](value, fresh)
    elif entry.action == "resized":
        axis = ledger.resized_axis(entry.target, value.shape, fresh.shape)
        assert axis is not None
        kept = min(value.shape[axis], fresh.shape[axis])
        stored = jax.lax.slice_in_dim(value, 0, kept, axis=axis)
        rest = jax.lax.slice_in_dim(fresh, kept, None, axis=axis)
        return jnp.concatenate([stored, rest], axis)
    kept = start.fresh_from.get(stack_of(entry.target) or "")
    if kept is not None:
        return jnp.concatenate([value[:kept], fresh[kept:]])
    return value


def _part(path: str, whole: jax.Array) -> jax.Array:
    layers = layer_range(path)
    return whole if layers is None else whole[layers[0] : layers[1]]
