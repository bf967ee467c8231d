"""Adapters that begin as another run trained them, or as PEFT's files hold them
(`peft.NAME.from`): their settings, their parameters, and whether their model is this one.

A run keeps what it adopts in its own checkpoints. Where it came from is noted in the ledger, and
must be there while the run is trained, not to use it.
"""

import dataclasses
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
from jaxssl.run.same_model import check_model, imported_from
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


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An adapter that is to be as it is elsewhere, and what its mistakes say.

    Attributes:
      name: of the adapter here.
      given: what names the place; see `split_place`.
      start: what the model comes from: the model of PEFT's files.
      where: the setting or option that names the place.
      fix: what to do where the adapter was trained on another model.
      beside: the names, there, of other adapters that are taken, too.
    """

    name: str
    given: str
    start: str | None
    where: str
    fix: str
    beside: Sequence[str] = ()


def wanted_by_recipe(name: str, given: str, start: str | None) -> Wanted:
    """The adapter that `peft.NAME.from` names."""
    return Wanted(
        name=name,
        given=given,
        start=start,
        where=f"peft.{name}.from",
        fix="start from the model that the adapter was trained on (init.from), or from the run "
        "that trained it, without peft.*.from",
    )


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
            begun_from = None if start is None else str(start)
            there = method_there(wanted_by_recipe(name, each["from"], begun_from))
            _check_settings({k: v for k, v in each.items() if k not in FREE}, there, name)
            settings = configuration.to_dict(there)
            found[name] = {k: v for k, v in settings.items() if k not in HERE}
    return {"peft": found} if found else {}


def method_there(wanted: Wanted) -> Method:
    """The method of an adapter elsewhere, with its settings.

    Raises:
      UserError: no adapter there.
    """
    place, _ = split_place(wanted.given)
    run_dir = split_checkpoint(place)[0]
    if (run_dir / RUN_CONFIG).is_file():
        peft = configuration.read_yaml(run_dir / RUN_CONFIG).get("peft") or {}
        return configuration.load(_One, [{"method": peft[_choose(wanted, peft)]}]).method
    if (place / ADAPTER).is_file():
        return read_adapter(place, _model_of(place, wanted), leaves_heads=True).method
    raise UserError(
        "no adapter to begin from",
        where=wanted.where,
        expected=f"a run that trained adapters, RUN#NAME, or a directory with {ADAPTER}",
        got=looked_up(place) if not place.exists() else f"{place}, neither",
        fix=suggestion(place),
    )


def _choose(wanted: Wanted, peft: Layer) -> str:
    """Which of a run's adapters: that which is named, the only one, or the one of this name."""
    _, chosen = split_place(wanted.given)
    if chosen is None:
        chosen = next(iter(peft)) if len(peft) == 1 else wanted.name
    return choose_adapter(chosen, peft, wanted.given, wanted.where)


def choose_adapter(chosen: str, peft: Layer, given: str, where: str) -> str:
    """The name of one of a run's adapters. Raises UserError: it has none of the name."""
    if chosen in peft:
        return chosen
    raise UserError(
        "the run has no such adapter" if peft else "this run has no adapters",
        where=where,
        expected=f"{given.rpartition('#')[0] or given}#NAME with one of {', '.join(peft)}"
        if peft
        else "a run trained with peft",
        got=given,
        fix=did_you_mean(chosen, peft) if peft else None,
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


def check_going_on(config: RunConfig, model: Model) -> None:
    """Refuses a start from a run whose adapters this run has not, or has with parameters that are
    of something else.

    Raises:
      UserError: names the adapter, or the setting.
    """
    init = config.init
    path = None if init is None else split_checkpoint(Path(init.from_))[0] / RUN_CONFIG
    if init is None or path is None or not path.is_file():
        return
    there = configuration.read_yaml(path).get("peft") or {}
    _check_kept(config, init, there)
    own = [*flatten(unbox(uncut(model).abstract()))]
    for name, method in config.peft.items():
        paths = [each for each in own if matches(own_parameters(name), each)]
        is_fresh = all(any(matches(x, each) for x in init.fresh) for each in paths)
        if method.from_ or name not in there or not method.same_throughout or is_fresh:
            continue
        before: Any = configuration.load(_One, [{"method": there[name]}]).method
        for key in method.same_throughout:
            if type(before) is type(method) and getattr(before, key) != getattr(method, key):
                raise UserError(
                    "an adapter cannot go on as one of other tokens",
                    where=f"peft.{name}.{key}",
                    expected=f"{list(getattr(before, key))}, as in {init.from_}",
                    got=list(getattr(method, key)),
                    fix="name the same tokens in the same order, give the adapter another name, or "
                    f"let it begin afresh: 'init.fresh=[{own_parameters(name)}]'",
                )


def _check_kept(config: RunConfig, init: InitConfig, there: Layer) -> None:
    """Refuses to leave adapters of the run that is started from behind unsaid."""
    here = {name: method.name for name, method in config.peft.items()}
    methods = {
        name: configuration.load(_One, [{"method": each}]).method for name, each in there.items()
    }
    lost = [
        f"{name} ({method.name})"
        for name, method in methods.items()
        if method.is_stored and here.get(name) != method.name
    ]
    if lost and not any(x.startswith((ADAPTERS, "**")) for x in (*init.drop, *init.fresh)):
        raise UserError(
            "the run that this one starts from has adapters that this one has not",
            where="peft",
            expected=f"{', '.join(lost)}, as {init.from_} has",
            got=", ".join(f"{name} ({method})" for name, method in here.items()) or "no adapters",
            fix="give the same peft to go on, or start from one without: jaxssl merge "
            f"{init.from_} OUT; 'init.drop=[{ADAPTERS}/**]' leaves what they learnt behind",
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
            assert config.init is not None
            wanted = wanted_by_recipe(name, method.from_, config.init.from_)
            compare_settings(method, method_there(wanted), name)
            start = adopt(start, config, model, wanted, noted.get(name))
    return start


def _noted(out: Path) -> Mapping[str, Any]:
    """What a run that has saved something noted of where its adapters come from."""
    path = out / ledger.FILE_NAME
    if not path.is_file() or not CheckpointManager(out / "checkpoints").steps():
        return {}
    what, fix = "the ledger of a run is damaged", "restore it from a copy"
    noted = read_json(path, what=what, fix=fix).get("from") or {}
    return read_bases({NETWORKS: noted.get(ADOPTED, {})}, path)


def adopt(
    start: Start,
    config: RunConfig,
    model: Model,
    wanted: Wanted,
    noted: Mapping[str, Any] | None = None,
) -> Start:
    """The start with one adapter that comes from elsewhere.

    Args:
      start: has what the model itself comes from.
      model: with the adapter.
      noted: where it came from when a run began that has saved something.

    Raises:
      UserError: it is of another model, or its parameters do not fit.
    """
    name = wanted.name
    source, own, left = _open(start, config, model, wanted, noted)
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
    cast = InitConfig(from_=wanted.given, cast=config.init is None or config.init.cast)
    lead = f"{wanted.given}: "
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
    start: Start,
    config: RunConfig,
    model: Model,
    wanted: Wanted,
    noted: Mapping[str, Any] | None,
) -> tuple[ParameterSource, ParameterIndex, list[str]]:
    """What holds an adapter, its parameters there, and what is told of what is left there."""
    place, _ = split_place(wanted.given)
    run_dir = split_checkpoint(place)[0]
    if not (run_dir / RUN_CONFIG).is_file():
        return _open_files(place, wanted, model)
    check_seal(run_dir)
    source, stored = RunOrigin(run_dir).open(InitConfig(from_=str(place)), config.checkpoint, noted)
    check_model(start.taken(), model, stored, run_dir, where=wanted.where, fix=wanted.fix)
    peft = configuration.read_yaml(run_dir / RUN_CONFIG)["peft"]
    chosen = _choose(wanted, peft)
    own = {p: x for p, x in stored.pieces.items() if matches(own_parameters(chosen), p)}
    heads = {path.split("/")[0] for path in stored.pieces} - {*model.body_parts, *model.others}
    others = [name for name in peft if name != chosen and name not in wanted.beside]
    left = [*(f"adapter {other}" for other in others), *sorted(heads)]
    return source, ParameterIndex(own), _told(wanted, left)


def _told(wanted: Wanted, left: Sequence[str]) -> list[str]:
    taken = f"note: of {wanted.given}, {wanted.name} is taken"
    return [f"{taken}, and not {', '.join(left)}"] if left else []


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
    place: Path, wanted: Wanted, model: Model
) -> tuple[ParameterSource, ParameterIndex, list[str]]:
    source = PeftSource(place / WEIGHTS, _model_of(place, wanted).path)
    adapter, arrays = _files(place, source.model)
    pieces = {
        path: (
            Piece(source, path, 0, len(x) if is_stacked(path) else None, 0, x.shape, str(x.dtype)),
        )
        for path, x in arrays.items()
    }
    body = [path for path in adapter.trained if path.split("/")[0] in model.body_parts]
    if body:
        raise UserError(
            "parameters of the model itself were trained with the adapter, and stay as they are",
            where=f"{wanted.where}, {place}",
            expected="an adapter alone, or with the head of a task",
            got=", ".join(sorted(body)[:3]),
            fix="make a run of both and start from it: jaxssl import ADAPTER RUN --base MODEL, "
            "then init.from=RUN",
        )
    left = [*sorted({path.split("/")[0] for path in adapter.trained}), *adapter.heads]
    return source, ParameterIndex(pieces), _told(wanted, left)


def _model_of(place: Path, wanted: Wanted) -> HfDirectory:
    """The model that PEFT's files are read for: the directory of Hugging Face's that the run starts
    from, or that the run was imported from which it starts from."""
    path = None if wanted.start is None else split_checkpoint(wanted.start)[0]
    if path is not None and (checksum := imported_from(path)) is not None:
        file = path / ledger.FILE_NAME
        what, fix = "the ledger of a run is damaged", "restore it from a copy"
        path = Path(read_json(file, what=what, fix=fix)["from"]["run"])
        path = path if (path / CONFIG).is_file() and fingerprint(path) == checksum else None
    if path is None or not (path / CONFIG).is_file():
        raise UserError(
            "an adapter of PEFT's begins beside the model that it is for",
            where=f"{wanted.where}, {place}",
            expected="a start from a directory of Hugging Face's, with config.json, or from a run "
            "that was imported from one that is still there",
            got=wanted.start,
            fix=wanted.fix,
        )
    return open_model(path)
