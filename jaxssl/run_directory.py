"""The directory of a run: which run it belongs to, and what is written at its start."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxssl.core import config as configuration
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.names import flatten, matches
from jaxssl.data.tokenizer import Tokenizer
from jaxssl.parallel import hosts

MAY_CHANGE = (
    "{out,distributed,evaluation,checkpoint,logging,samples,watchdog,profile,mesh}/**",
    "train/{accumulation,not_finite,not_finite_limit}",
    "data/{store,prefetch}",
    "model/{remat,unroll}",
    "objective/{slots,chunk}",
    "objective/terms/*/objective/{slots,chunk}",
)
"""Keys that a run may be resumed with changes in: none of them changes what is learnt, but for the
order of sums and, with another `accumulation`, the dropout masks. The store is compared by its
contents."""


def open_run_directory(config: Any, tokenizer: Tokenizer, data: str) -> Path:
    """Makes the run directory `config.out`, or checks that it belongs to this configuration.

    Args:
      config: of the run.
      tokenizer: a copy is kept with the run.
      data: a checksum of what it is trained on.

    Raises:
      UserError: it cannot be written, or holds another run.
    """
    hosts.first_decides(lambda: _open_run_directory(config, tokenizer, data))
    return Path(config.out)


def _open_run_directory(config: Any, tokenizer: Tokenizer, data: str) -> int:
    run_dir = Path(config.out)
    identity = {"config": configuration.to_dict(config), "data": data}
    known = run_dir / "run.json"
    if known.is_file():
        check_same_run(known, read_identity(known), identity)
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
        with atomic_write(known) as file:
            json.dump(identity, file, indent=2)
        with atomic_write(run_dir / "config.yaml") as file:
            file.write(configuration.to_yaml(config))
        with atomic_write(run_dir / "environment.json") as file:
            json.dump(environment(), file, indent=2)
        tokenizer.save(run_dir / "tokenizer")
    except OSError as error:
        raise UserError(
            "the run directory cannot be written",
            where=run_dir,
            expected="a writable directory on a disk with space",
            got=error.strerror or error,
            fix="choose another directory with out=...",
        ) from error
    return 0


def _foreign_files(run_dir: Path) -> list[str]:
    """What is in a directory but the temporary files of a start that was killed."""
    names = [path.name for path in run_dir.iterdir()] if run_dir.is_dir() else []
    return sorted(x for x in names if not (x.startswith(".") and x.endswith(".tmp")))


def read_identity(path: Path) -> dict[str, Any]:
    """The configuration and store that a run was started with.

    Raises:
      UserError: the file is damaged.
    """
    try:
        identity = json.loads(path.read_text())
        return {"config": dict(identity["config"]), "data": str(identity["data"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the file that says which run this is is damaged",
            where=path,
            expected="what `jaxssl pretrain` wrote",
            got=f"{type(error).__name__}: {error}",
            fix="restore it from a copy, or choose another directory with out=...",
        ) from error


def check_same_run(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume with another model, objective, optimizer or data.

    Raises:
      UserError: lists each difference.
    """
    before, after = _deciding(old["config"]), _deciding(new["config"])
    different = [
        f"{key.replace('/', '.')}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
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


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The values that decide what a run learns, by path, lists taken apart."""
    flat = flatten(_without_lists(json.loads(json.dumps(config))))
    return {
        path: value
        for path, value in flat.items()
        if not any(matches(pattern, path) for pattern in MAY_CHANGE)
    }


def _without_lists(value: Any) -> Any:
    if isinstance(value, list):
        value = {str(i): item for i, item in enumerate(value)} or None
    if isinstance(value, dict):
        return {key: _without_lists(item) for key, item in value.items()}
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
