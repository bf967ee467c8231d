"""A run's data from another directory than it was started in: their paths may be relative."""

import dataclasses
import glob
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import parse_json, read_json
from jaxssl.data.config import DataConfig

IDENTITY = "run.json"
PLACES = "places"
"""Key of {relative path: absolute path} of a run's data, beside its configuration."""
KEYS = ("path", "store", "dataset")
"""Of data, whose values are paths, or may be."""


def absolute_places(config: Mapping[str, Any]) -> dict[str, str]:
    """{relative path: absolute path} of the data in a run's configuration, seen from here; a name
    of the hub is none."""
    data = [config["data"], *(stream["data"] for stream in config["streams"].values())]
    found = dict.fromkeys(place for each in data if each for place in _places(each))
    relative = (place for place in found if not Path(place).is_absolute() and _exists(place))
    return {place: str(Path.cwd() / place) for place in relative}


def data_from_here(
    run_dir: Path, data: DataConfig, say: Callable[[str], None], key: str = "data"
) -> Any:
    """A run's data with paths that lead to them from here: a relative one as it stands, if there is
    something; else from where the run was started, which is said. So is that both are there, and
    differ. Paths that were given anew (--with) stay.

    Args:
      key: of the data, in the configuration.

    Raises:
      UserError: they are at neither place.
    """
    path, what, fix = run_dir / IDENTITY, "a run's file is damaged", "restore it from a copy"
    identity = read_json(path, what=what, fix=fix) if path.is_file() else {}
    found = json.dumps(identity.get(PLACES, {}))  # of a run of an earlier version, none
    places = parse_json(found, dict[str, str], where=path, what=what, fix=fix)

    def move(place: str, key: str) -> str:
        return _from_here(place, places[place], key, say) if place in places else place

    return _moved(data, key, move)


def _places(value: Any) -> Iterator[str]:
    """All paths in a configuration of data."""
    for key, child in value.items():
        if key in KEYS and isinstance(child, str):
            yield child
        elif isinstance(child, Mapping):
            yield from _places(child)


def _moved(config: Any, key: str, move: Callable[[str, str], str]) -> Any:
    """A dataclass with `move(path, its key)` in the place of each path in it."""
    changes = {}
    for field in dataclasses.fields(config):
        value, inside = getattr(config, field.name), f"{key}.{field.name}"
        if field.name in KEYS and isinstance(value, str):
            changes[field.name] = move(value, inside)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _moved(value, inside, move)
    return dataclasses.replace(config, **changes)


def _from_here(place: str, there: str, key: str, say: Callable[[str], None]) -> str:
    here = str(Path.cwd() / place)
    if _exists(here):
        if _exists(there) and Path(here).resolve() != Path(there).resolve():
            say(f"{key}: {here} is read; the run was trained on {there}")
        return place
    if _exists(there):
        say(f"{key}: {place} is not here: {there} is read, as when the run was trained")
        return there
    raise UserError(
        "the data of the run are not there any more",
        where=key,
        expected=f"{here}, or {there}, from where the run was started",
        got="neither",
        fix=f"say where they are now: --with {key}=PATH",
    )


def _exists(place: str) -> bool:
    return Path(place).exists() or bool(glob.glob(place, recursive=True))
