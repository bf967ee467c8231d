"""What a run with adapters has besides them that its base has not: rows of the vocabulary's tables,
which PEFT's files can hold, and other parameters, which they cannot."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxssl.checkpoint import ledger
from jaxssl.checkpoint.hf.directory import CONFIG, open_model
from jaxssl.checkpoint.parameter_index import read_base, saved_leaves
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_json
from jaxssl.core.layer_names import ADAPTERS, canonical
from jaxssl.run.open import TrainedModel, open_run
from jaxssl.run.whole import whole_arrays
from jaxssl.transfer.peft.rows import OUTPUT, TABLE, Rows

Read = Callable[[str], np.ndarray | None]
"""A parameter of the base by its name there."""


def changed_rows(
    run_dir: Path,
    trained: TrainedModel,
    whole: Mapping[str, np.ndarray],
    written: Collection[str],
) -> dict[str, Rows]:
    """The rows of tables that differ from the base's, or that it has not, by the table's name.

    Args:
      whole: all parameters, by canonical name.
      written: those that the adapter's files hold anyway.

    Raises:
      UserError: something else has changed, which the files do not hold.
    """
    saved = {canonical(path) for path in saved_leaves(run_dir / "checkpoints" / str(trained.step))}
    own = sorted((saved & whole.keys()) - {*written})
    own = [name for name in own if not name.startswith(f"{ADAPTERS}/")]
    noted = _base_of(run_dir)
    if not own or noted is None:
        return {}
    read, names = _reader(noted, trained), noted.get("names") or {}
    found = {}
    for name in own:
        now, before = whole[name], read(names.get(name, name))
        before = None if before is None else before.astype(now.dtype)
        if before is not None and np.array_equal(now, before):
            continue
        if before is None or name not in (TABLE, OUTPUT):
            raise _not_held(name)
        found[name] = _differing(name, now, before)
    return found


def _differing(name: str, now: np.ndarray, before: np.ndarray) -> Rows:
    if name == OUTPUT:  # [H, V]
        now, before = now.T, before.T
    kept = min(len(now), len(before))
    same = np.zeros(len(now), bool)
    same[:kept] = (now[:kept] == before[:kept]).all(axis=1)
    indices = np.flatnonzero(~same)
    return Rows(tuple(indices.tolist()), now[indices])


def _base_of(run_dir: Path) -> Mapping[str, Any] | None:
    """What a run started from; of an imported one what it was imported from, if that is there."""
    if (noted := read_base(run_dir).get("")) is not None:
        return noted
    path, what = run_dir / ledger.FILE_NAME, "the ledger of a run is damaged"
    if not path.is_file():
        return None
    noted = read_json(path, what=what, fix="restore it from a copy").get("from") or {}
    place = noted.get("run")
    return noted if place and (Path(place) / CONFIG).is_file() else None


def _reader(noted: Mapping[str, Any], trained: TrainedModel) -> Read:
    init = trained.config.init
    place = Path(noted["run"]) if init is None or not init.run_dir.is_dir() else init.run_dir
    if noted.get("step") is not None:
        base = whole_arrays(open_run(place, noted["step"], alone=True, as_arrays=True).params)
        return base.get
    found = open_model(place)
    leaves = found.leaves()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def read(name: str) -> np.ndarray | None:
        if name not in found.pairs:
            return None
        leaf = leaves[name]
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
        return np.asarray(found.read(name, shape))

    return read


def _not_held(name: str) -> UserError:
    return UserError(
        "the run has trained more than PEFT's files of its adapter could hold",
        where=name,
        expected="adapters, heads of tasks, the pooler and rows of the vocabulary's tables",
        got="another parameter that is not the base's",
        fix="merge, and export the whole model: jaxssl merge RUN OUT",
    )
