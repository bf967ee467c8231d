"""Adapters that begin as another run trained them, or as PEFT's files hold them
(`peft.NAME.from`): their settings, their parameters, and whether their model is this one.

A run keeps what it adopts in its own checkpoints. Where it came from is noted in the ledger, and
must be there while the run is trained, not to use it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.bases import ADOPTED, NETWORKS, describe_base, read_bases
from jaxssl.checkpoint.hf.directory import CONFIG, HfDirectory, fingerprint, open_model
from jaxssl.checkpoint.hf.places import ADAPTER
from jaxssl.checkpoint.init_config import InitConfig, split_checkpoint
from jaxssl.checkpoint.ledger import make_ledger
from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.checkpoint.origin import RUN_CONFIG, RunOrigin
from jaxssl.checkpoint.parameter_index import (
    ParameterIndex,
    ParameterSource,
    Piece,
    base_record,
    check_base,
)
from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import sha256
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import ADAPTERS, is_stacked
from jaxssl.core.names import flatten, matches
from jaxssl.core.paths import looked_up, suggestion
from jaxssl.core.seal import check_seal
from jaxssl.models.layers import unbox
from jaxssl.models.model import Model
from jaxssl.run.adapters import own_parameters
from jaxssl.run.config import RunConfig
from jaxssl.run.networks import inits
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.files import WEIGHTS
from jaxssl.transfer.peft.reading import ReadAdapter, read_adapter
from jaxssl.transfer.start import Start, uncut

Layer = Mapping[str, Any]
HERE = ("from", "frozen")
"""Settings that are a run's own."""
FREE = (*HERE, "weight")
"""Settings that may be others than those that the adapter was trained with."""


@dataclass(frozen=True, kw_only=True)
class _One:
    """One method, as a configuration has it."""

    method: Method


def split_place(given: str) -> tuple[Path, str | None]:
    """The directory that `from` names, or a checkpoint of it, and the adapter after `#`."""
    if "#" not in given or Path(given).exists():
        return Path(given), None
    place, _, name = given.rpartition("#")
    return Path(place), name


# --- Settings ------------------------------------------------------------------------------------


def adopted_settings(given: Layer) -> dict[str, Any]:
    """{"peft": {name: its settings}} of the adapters that say where they come from.

    Args:
      given: a configuration's layers, combined.

    Raises:
      UserError: no adapter there, or the layers have other settings for it.
    """
    peft, init = given.get("peft"), given.get("init")
    if not isinstance(peft, Mapping):
        return {}
    start = init.get("from") if isinstance(init, Mapping) else None
    found = {}
    for name, each in peft.items():
        if isinstance(each, Mapping) and isinstance(each.get("from"), str):
            there = method_there(each["from"], name, None if start is None else str(start))
            _check_settings({k: v for k, v in each.items() if k not in FREE}, there, name)
            settings = configuration.to_dict(there)
            found[name] = {k: v for k, v in settings.items() if k not in HERE}
    return {"peft": found} if found else {}


def method_there(given: str, name: str, start: str | None) -> Method:
    """The method that `from` names, with its settings.

    Args:
      name: of the adapter here, which one of several there may have, too.
      start: what `init.from` names: the model of PEFT's files.

    Raises:
      UserError: no adapter there.
    """
    place, wanted = split_place(given)
    run_dir = split_checkpoint(place)[0]
    if (run_dir / RUN_CONFIG).is_file():
        peft = configuration.read_yaml(run_dir / RUN_CONFIG).get("peft") or {}
        chosen = _choose(given, peft, wanted, name)
        return configuration.load(_One, [{"method": peft[chosen]}]).method
    if (place / ADAPTER).is_file():
        return read_adapter(place, _model_of(place, start), leaves_heads=True).method
    raise UserError(
        "no adapter to begin from",
        where=f"peft.{name}.from",
        expected=f"a run that trained adapters, RUN#NAME, or a directory with {ADAPTER}",
        got=looked_up(place) if not place.exists() else f"{place}, neither",
        fix=suggestion(place),
    )


def _choose(given: str, peft: Layer, wanted: str | None, name: str) -> str:
    """Which of a run's adapters: that which is named, the only one, or the one of this name."""
    if wanted is None:
        wanted = next(iter(peft)) if len(peft) == 1 else name
    if wanted in peft:
        return wanted
    raise UserError(
        "the run has no such adapter" if peft else "this run has no adapters",
        where=f"peft.{name}.from",
        expected=f"{given.rpartition('#')[0] or given}#NAME with one of {', '.join(peft)}"
        if peft
        else "a run trained with peft",
        got=given,
        fix=did_you_mean(wanted, peft) if peft else None,
    )


def _check_settings(given: Layer, there: Method, name: str) -> None:
    """Refuses what a recipe says beside `from` where the adapter has it otherwise."""
    plain = {k: v for k, v in configuration.to_dict(there).items() if k not in FREE}
    if given.get("name", plain["name"]) == plain["name"]:
        here = configuration.load(_One, [{"method": plain}, {"method": given}]).method
        compare_settings(here, there, name)
        return
    raise _other_settings(name, "name", plain["name"], given["name"])


def compare_settings(here: Method, there: Method, name: str) -> None:
    """Refuses an adapter with other settings than it was trained with. Raises UserError."""
    mine, theirs = configuration.to_dict(here), configuration.to_dict(there)
    for key in ("name", *theirs):
        if key not in FREE and mine.get(key) != theirs[key]:
            raise _other_settings(name, key, theirs[key], mine.get(key))


def _other_settings(name: str, key: str, expected: Any, got: Any) -> UserError:
    return UserError(
        "an adapter was trained with another setting",
        where=f"peft.{name}.{key}",
        expected=f"{expected!r}, as where it comes from, or not given",
        got=repr(got),
        fix=f"leave it out, or begin afresh without peft.{name}.from",
    )


# --- Parameters ----------------------------------------------------------------------------------


def without_adopted(config: RunConfig) -> dict[str, InitConfig | None]:
    """What each network starts from, with nothing taken from there that comes from elsewhere."""
    found, names = inits(config), [name for name, each in config.peft.items() if each.from_]
    init = found[""]
    if init is not None and names:
        fresh = (*init.fresh, *map(own_parameters, names))
        found[""] = dataclasses.replace(init, fresh=fresh)
    return found


def with_adopted(start: Start, config: RunConfig, model: Model) -> Start:
    """The start with the adapters that come from elsewhere.

    A run that has saved something takes them from the same checkpoints again.

    Raises:
      UserError: an adapter of another model, with other settings, or with parameters that do not
        fit; another than the one that the run began with.
    """
    noted = _noted(Path(config.out))
    for name, method in config.peft.items():
        if method.from_:
            start = _adopt(start, config, model, name, noted.get(name))
    return start


def _noted(out: Path) -> Mapping[str, Any]:
    """What a run that has saved something noted of where its adapters come from."""
    path = out / ledger.FILE_NAME
    if not path.is_file() or not CheckpointManager(out / "checkpoints").steps():
        return {}
    what, fix = "the ledger of a run is damaged", "restore it from a copy"
    noted = read_json(path, what=what, fix=fix).get("from") or {}
    return read_bases({NETWORKS: noted.get(ADOPTED, {})}, path)


def _adopt(
    start: Start, config: RunConfig, model: Model, name: str, noted: Mapping[str, Any] | None
) -> Start:
    method = config.peft[name]
    assert method.from_ is not None and config.init is not None
    there = method_there(method.from_, name, config.init.from_)
    compare_settings(method, there, name)
    source, own, left = _open(start, config, model, name, noted)
    if noted is not None:
        check_base(noted, source)
    origins = {_renamed(path, name): path for path in own.pieces}
    leaves = {_renamed(path, name): leaf for path, leaf in own.leaves().items()}
    shapes = flatten(unbox(uncut(model).abstract()))
    target = {
        path: ledger.Leaf(tuple(x.shape), str(x.dtype))
        for path, x in shapes.items()
        if matches(own_parameters(name), path)
    }
    cast = InitConfig(from_=method.from_, cast=config.init.cast)
    lead = f"{method.from_}: "
    record = {"run": str(source.run.absolute()), "step": source.step}
    entries = [
        dataclasses.replace(
            entry,
            action="adopted",
            source=lead + origins[str(entry.source)],
            detail=f"{name} from {describe_base(record)}",
        )
        for entry in make_ledger(cast, target, leaves)
    ]
    record = base_record(source, entries)
    pieces = {lead + path: found for path, found in own.pieces.items()}
    others = [entry for entry in start.entries if entry.target not in target]
    stored = dataclasses.replace(
        start.stored,
        pieces={**start.stored.pieces, **pieces},
        notes=(*start.stored.notes, *left),
    )
    return dataclasses.replace(
        start,
        entries=[*others, *entries],
        stored=stored,
        adopted={**start.adopted, name: record},
    )


def _renamed(path: str, name: str) -> str:
    """The path of an adapter's parameter under another name of the adapter."""
    module, leaf = path.rsplit("/", 1)
    return f"{module}/{name}_{leaf.split('_', 1)[1]}"


def _open(
    start: Start, config: RunConfig, model: Model, name: str, noted: Mapping[str, Any] | None
) -> tuple[ParameterSource, ParameterIndex, list[str]]:
    """What holds an adapter, its parameters there, and what is told of what is left there."""
    given, init = str(config.peft[name].from_), config.init
    assert init is not None
    place, wanted = split_place(given)
    run_dir = split_checkpoint(place)[0]
    if not (run_dir / RUN_CONFIG).is_file():
        return _open_files(place, init.from_, name, model)
    check_seal(run_dir)
    source, stored = RunOrigin(run_dir).open(InitConfig(from_=str(place)), config.checkpoint, noted)
    _check_model(start, model, stored, run_dir, name)
    peft = configuration.read_yaml(run_dir / RUN_CONFIG)["peft"]
    chosen = _choose(given, peft, wanted, name)
    own = {p: x for p, x in stored.pieces.items() if matches(own_parameters(chosen), p)}
    heads = {path.split("/")[0] for path in stored.pieces} - {*model.body_parts, *model.others}
    left = [*(f"adapter {other}" for other in peft if other != chosen), *sorted(heads)]
    return source, ParameterIndex(own), _told(name, given, left)


def _told(name: str, given: str, left: Sequence[str]) -> list[str]:
    return [f"note: of {given}, {name} is taken, and not {', '.join(left)}"] if left else []


# --- Whether its model is this one ----------------------------------------------------------------


def _check_model(
    start: Start, model: Model, theirs: ParameterIndex, run_dir: Path, name: str
) -> None:
    """Refuses an adapter of another model: of each parameter the same arrays of the same
    checkpoint. Of a run that was imported, what it was imported from must be the same."""
    imported, here = _imported_from(run_dir), _imported_from(Path(start.base["run"]))
    if imported is not None:
        known = {start.base["manifest"], here} - {None}
        if imported not in known:
            raise _other_model(name, run_dir, f"checksum {imported[:16]}...", "another")
        return
    body = [part for part in model.body_parts if part != ADAPTERS]
    mine = {entry.target: entry.source for entry in start.entries if entry.source is not None}
    for path, pieces in theirs.pieces.items():
        if path.split("/")[0] in body:
            own = start.stored.pieces.get(str(mine.get(path)), ())
            if _places(own) != _places(pieces):
                there = sorted({str(piece.source.path) for piece in pieces})
                got = sorted({str(piece.source.path) for piece in own}) or ["fresh parameters"]
                raise _other_model(name, path, ", ".join(there), ", ".join(got))


def _imported_from(run_dir: Path) -> str | None:
    """The checksum of what a run was imported from; None of a run that was trained."""
    path = run_dir / RUN_CONFIG
    if not path.is_file() or not configuration.read_yaml(path).get("imported"):
        return None
    what, fix = "the ledger of a run is damaged", "restore it from a copy"
    file = run_dir / ledger.FILE_NAME
    noted = read_json(file, what=what, fix=fix)["from"] if file.is_file() else {}
    return noted.get("manifest")


def _places(pieces: Sequence[Piece]) -> list[tuple[Any, ...]]:
    """What parameters are told apart by."""
    return [(_checksum(x.source), x.name, x.start, x.end, x.offset) for x in pieces]


@functools.lru_cache(maxsize=64)
def _checksum(source: ParameterSource) -> str | None:
    return source.checksum()


def _other_model(name: str, where: Any, expected: str, got: str) -> UserError:
    return UserError(
        "an adapter was trained on another model than this run starts from",
        where=f"peft.{name}.from, {where}",
        expected=f"parameters from {expected}",
        got=got,
        fix="start from the model that the adapter was trained on (init.from), or from the run "
        "that trained it, without peft.*.from",
    )


# --- PEFT's files --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PeftSource(ParameterSource):
    """A directory of PEFT's, read for the model that it is for.

    Attributes:
      path: of the tensors' file.
      model: the directory of Hugging Face's with the model.
    """

    model: Path

    def read(self, arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
        found = _files(self.run, self.model)[1]
        return {
            name: jax.device_put(found[name].astype(array.dtype), array.sharding)
            for name, array in arrays.items()
        }

    def read_dtype(self, stored: str, wanted: Any) -> Any:
        return np.dtype(stored)

    def checksum(self) -> str | None:
        files = [self.run / ADAPTER, self.path]
        if not all(file.is_file() for file in files):
            return None
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()

    @property
    def run(self) -> Path:
        return self.path.parent


def _files(place: Path, model: Path) -> tuple[ReadAdapter, dict[str, np.ndarray]]:
    """An adapter of PEFT's, and its arrays by their names here, the adapter's being `default`."""
    adapter = read_adapter(place, open_model(model), leaves_heads=True)
    return adapter, {
        f"{ADAPTERS}/{module}/default_{leaf}": x
        for module, arrays in adapter.modules.items()
        for leaf, x in arrays.items()
    }


def _open_files(
    place: Path, start: str, name: str, model: Model
) -> tuple[ParameterSource, ParameterIndex, list[str]]:
    source = PeftSource(place / WEIGHTS, _model_of(place, start).path)
    adapter, arrays = _files(place, source.model)
    pieces = {
        path: (
            Piece(source, path, 0, len(x) if is_stacked(path) else None, 0, x.shape, str(x.dtype)),
        )
        for path, x in arrays.items()
    }
    body = [path for path in adapter.trained if path.split("/")[0] in model.body_parts]
    if body:
        raise _other_model(name, place, "the model that it names", f"{body[0]}, trained beside it")
    left = [*sorted({path.split("/")[0] for path in adapter.trained}), *adapter.heads]
    return source, ParameterIndex(pieces), _told(name, str(place), left)


def _model_of(place: Path, start: str | None) -> HfDirectory:
    """The model that PEFT's files are read for: the directory of Hugging Face's that the run starts
    from, or that the run was imported from which it starts from."""
    path = None if start is None else split_checkpoint(start)[0]
    if path is not None and (wanted := _imported_from(path)) is not None:
        file = path / ledger.FILE_NAME
        what, fix = "the ledger of a run is damaged", "restore it from a copy"
        path = Path(read_json(file, what=what, fix=fix)["from"]["run"])
        path = path if (path / CONFIG).is_file() and fingerprint(path) == wanted else None
    if path is None or not (path / CONFIG).is_file():
        raise UserError(
            "an adapter of PEFT's begins beside the model that it is for",
            where="init.from",
            expected="a directory of Hugging Face's, with config.json, or a run that was imported "
            "from one that is still there",
            got=start,
            fix=f"give the model of {place}: init.from=DIRECTORY",
        )
    return open_model(path)
