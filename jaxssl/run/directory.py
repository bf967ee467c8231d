"""The directory of a run: which run it belongs to, and what is written at its start."""

import dataclasses
import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import jax

from jaxssl.checkpoint.manager import CheckpointManager
from jaxssl.core import config as configuration
from jaxssl.core import plugins
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import STRICT, read_json
from jaxssl.core.names import flatten, matches
from jaxssl.core.ramp import Factor, Ramp, agree
from jaxssl.core.seal import check_seal
from jaxssl.data.tokenizer.tokenizer import Tokenizer
from jaxssl.parallel import hosts
from jaxssl.run.config import RunConfig
from jaxssl.run.places import IDENTITY, PLACES, absolute_places
from jaxssl.run.plugins import check_plugins, note_plugins, read_plugins
from jaxssl.run.recipes import upgraded_run
from jaxssl.run.sealing import break_seal

LOCK = ".lock"
ADAPTATION = "adaptation.json"
"""What `jaxssl adapt` notes before the run begins, and when it has ended."""
MAY_CHANGE = (
    "{out,distributed,evaluation,checkpoint,logging,samples,watchdog,profile,mesh}/**",
    "train/{steps,epochs,accumulation,not_finite,not_finite_limit}",
    "data/{store,verify,prefetch}",
    "model/{remat,unroll}",
    "networks/*/model/{remat,unroll}",
    "{,networks/*/}init/from",
    "{,streams/*/}objective/{slots,chunk}",
    "{,streams/*/}objective/terms/*/objective/{slots,chunk}",
    "{,streams/*/}objective/extra_scores/**",
    "{,streams/*/}objective/terms/*/objective/extra_scores/**",
    "streams/*/data/{store,verify,prefetch}",
    "streams/*/validation",
)
"""Keys that a run may be resumed with changes in. They do not change what was learnt, but for the
order of sums, and the learning rate from there on with other `steps`. The data and what the run
started from are compared by their contents."""
WEIGHTS = ("streams/*/weight", "{,streams/*/}objective/terms/*/weight")
"""Factors that may change from the newest checkpoint on, where they were the same so far. Draws
that were made already are compared by the loop."""


class RunLock:
    """Holds a run directory for this run: two at once would write over each other's files.

    The first process locks for all. Use as a context.

    Raises:
      UserError: another run holds it, or it cannot be written.
    """

    def __init__(self, run_dir: str | Path):
        self._path, self._file = Path(run_dir) / LOCK, None

    def __enter__(self) -> "RunLock":
        hosts.first_decides(self._take)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def check(self) -> None:
        """Refuses to go on where the directory is not the one that was locked any more.

        Raises:
          UserError: it was renamed, deleted, or another has taken its place.
        """
        if self._file is None:
            return
        held = os.fstat(self._file.fileno())
        try:
            found = os.stat(self._path)
        except OSError:
            found = None
        if found is None or (found.st_ino, found.st_dev) != (held.st_ino, held.st_dev):
            raise UserError(
                "the run directory was moved or deleted while the run trained in it",
                where=self._path.parent,
                expected="the directory that the run was started in",
                got="none" if found is None else "another one",
                fix="put it back under its name, and start the same command again: the run goes "
                "on from its newest checkpoint",
            )

    def _take(self) -> int:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a+")
        except OSError as error:
            raise _unwritable(self._path.parent, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            raise UserError(
                "another run is training in this directory",
                where=self._path.parent,
                expected="one run at a time",
                got=f"one by process {self._file.read().strip() or 'unknown'}",
                fix="wait for it or stop it, or choose another directory with out=...",
            ) from None
        except OSError as error:  # a file system without locks
            print(f"{self._path}: cannot be locked ({error.strerror})", file=sys.stderr)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()} on {platform.node()}")
        self._file.flush()
        return 0


def open_run_directory(
    config: Any,
    tokenizer: Tokenizer,
    data: str,
    say: Callable[[str], None] = print,
    *,
    place: Path | None = None,
) -> Path:
    """Makes the run directory `config.out`, or checks that it belongs to this configuration.

    A run that has saved nothing yet may be started again with any configuration.

    Args:
      config: of the run.
      tokenizer: a copy is kept with the run.
      data: a checksum of what it is trained on.
      say: is told what changed since the run was started.
      place: where it is made, if it is to be renamed to `config.out`.

    Raises:
      UserError: it cannot be written, or holds another run.
    """
    run_dir = Path(config.out) if place is None else place
    hosts.first_decides(lambda: _open_run_directory(run_dir, config, tokenizer, data, say))
    _check_plugins_agree(run_dir)
    return run_dir


def _check_plugins_agree(run_dir: Path) -> None:
    """Refuses processes whose plugins are not those of the first one, which it has noted."""
    noted, own = read_plugins(run_dir), plugins.loaded()
    if hosts.agree(noted != own):
        raise UserError(
            "the processes of this run have different plugins",
            where=run_dir,
            expected=f"{[each.given for each in noted]}, with one source each, in every process",
            got=f"{[each.given for each in own]} in process {jax.process_index()}",
            fix="give all processes the same --plugin options and the same files",
        )


def _open_run_directory(
    run_dir: Path, config: Any, tokenizer: Tokenizer, data: str, say: Callable[[str], None]
) -> int:
    content = configuration.to_dict(config)
    identity = {"config": content, "data": data, PLACES: absolute_places(content)}
    known, steps = run_dir / IDENTITY, []
    if os.path.lexists(known):
        steps = CheckpointManager(run_dir / "checkpoints").steps()
        if steps:
            check_plugins(run_dir, say)
            if not check_seal(run_dir):
                say("the run has no seal: whether its files are as written could not be seen")
            old = read_identity(known)
            check_same_run(known, old, identity, steps[-1])
            _check_as_edited(run_dir, old, identity, steps[-1])
            for change in _changes(old["config"], identity["config"], lambda path: True):
                say(f"changed since the run was started: {change}")
    elif others := _foreign_files(run_dir):
        raise UserError(
            "the run directory holds something else",
            where=run_dir,
            expected="a new or empty directory, or one of an earlier run",
            got=", ".join(others[:5]),
            fix="choose another directory with out=...",
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        break_seal(run_dir)
        with atomic_write(known) as file:
            json.dump(identity, file, indent=2)
        with atomic_write(run_dir / "config.yaml") as file:
            file.write(configuration.to_yaml(config))
        with atomic_write(run_dir / "environment.json") as file:
            json.dump(environment(), file, indent=2)
        note_plugins(run_dir)
        if not steps:  # what a start with another tokenizer has left
            shutil.rmtree(run_dir / "tokenizer", ignore_errors=True)
        tokenizer.save(run_dir / "tokenizer")
    except OSError as error:
        raise _unwritable(run_dir, error) from error
    return 0


def _unwritable(run_dir: Path, error: OSError) -> UserError:
    return UserError(
        "the run directory cannot be written",
        where=run_dir,
        expected="a writable directory on a disk with space",
        got=error.strerror or error,
        fix="choose another directory with out=...",
    )


def _foreign_files(run_dir: Path) -> list[str]:
    """What is in a directory but the temporary files of a start that was killed, and what was noted
    before the start."""
    names = [path.name for path in run_dir.iterdir()] if run_dir.is_dir() else []

    def is_ours(name):
        return name in (LOCK, ADAPTATION) or (name.startswith(".") and name.endswith(".tmp"))

    return sorted(name for name in names if not is_ours(name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """`run.json`: the configuration, a checksum of the data, and where they were (`places`)."""

    __pydantic_config__: ClassVar = STRICT
    config: Mapping[str, Any]
    data: str
    places: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_identity(path: Path) -> dict[str, Any]:
    """The configuration and store that a run was started with.

    Raises:
      UserError: the file is damaged.
    """
    identity = read_json(
        path,
        Identity,
        what="the file that says which run this is is damaged",
        fix="restore it from a copy, or choose another directory with out=...",
    )
    config = configuration.build(RunConfig, upgraded_run(identity.config))
    return {"config": configuration.to_dict(config), "data": identity.data}


def _check_as_edited(run_dir: Path, old: dict[str, Any], new: dict[str, Any], step: int) -> None:
    """Refuses to write over an edit of config.yaml that was accepted (`jaxssl seal`)."""
    path = run_dir / "config.yaml"
    there = configuration.build(RunConfig, upgraded_run(configuration.read_yaml(path)))
    edited = {**old, "config": configuration.to_dict(there)}
    if _changes(old["config"], edited["config"], _decides):
        check_same_run(path, edited, new, step)


def check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any], step: int) -> None:
    """Refuses to resume with another model, objective, optimizer or data.

    Args:
      step: of the newest checkpoint.

    Raises:
      UserError: lists each difference.
    """
    ahead = _changed_ahead(old["config"], new["config"], step)

    def counts(path):
        return _decides(path) and not path.startswith(tuple(ahead))

    different = _changes(old["config"], new["config"], counts)
    if different:
        raise UserError(
            "the run directory belongs to a different configuration",
            where=path,
            expected="the configuration the run was started with",
            got="; ".join(different[:10]),
            fix="choose another directory with out=..., or give the old values",
        )
    if old["data"] != new["data"]:
        raise UserError(
            "the data are not those the run was started with",
            where="data",
            expected=f"contents with SHA-256 {old['data'][:16]}...",
            got=f"{new['data'][:16]}...",
            fix="choose another directory with out=..., or restore the data",
        )


def _decides(path: str) -> bool:
    """Whether a value decides what a run learns."""
    return not any(matches(pattern, path) for pattern in MAY_CHANGE)


def _changed_ahead(old: dict[str, Any], new: dict[str, Any], step: int) -> list[str]:
    """The paths of weights that differ, but were the same up to a step."""
    before, after = _weights(old), _weights(new)
    both = before.keys() & after.keys()
    return [path for path in both if agree(before[path], after[path], step)]


def _weights(config: dict[str, Any]) -> dict[str, Factor]:
    """{path: the factor} of all weights in a configuration."""
    found, todo = {}, [("", without_lists(config))]
    while todo:
        path, node = todo.pop()
        if any(matches(pattern, path) for pattern in WEIGHTS):
            points = node.get("points") if isinstance(node, dict) else None
            found[path] = node if points is None else Ramp(points=_points(points))
        elif isinstance(node, dict):
            todo += [(f"{path}/{key}" if path else key, x) for key, x in node.items()]
    return found


def _points(points: dict[str, dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((point["0"], point["1"]) for point in points.values())


def _changes(old: dict[str, Any], new: dict[str, Any], counts: Callable[[str], bool]) -> list[str]:
    """`key: old value -> new value` of each value that differs and counts, lists taken apart."""
    before, after = (flatten(without_lists(json.loads(json.dumps(x)))) for x in (old, new))
    return [
        f"{path.replace('/', '.')}: {before.get(path)!r} -> {after.get(path)!r}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path) and counts(path)
    ]


def without_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = {str(i): item for i, item in enumerate(value)} or None
    if isinstance(value, dict):
        return {key: without_lists(item) for key, item in value.items()}
    return value


def environment() -> dict[str, Any]:
    """What the run runs on."""
    packages = ("jaxssl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "processes": jax.process_count(),
        "cores": os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        **versions,
    }
