"""Outputs of verbs that go on after a kill: what is there already, and what it was made of."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxssl import __version__
from jaxssl.checkpoint.manifest import MANIFEST
from jaxssl.core.config import to_yaml
from jaxssl.core.files import sha256
from jaxssl.data.encoding import Truncation
from jaxssl.data.tables.config import TableFile
from jaxssl.data.tables.read import file_paths
from jaxssl.data.tables.resumable import ResumedRows, Settings, resumed_output
from jaxssl.data.tables.table import Note
from jaxssl.parallel import hosts
from jaxssl.run.open import TrainedModel

NOTHING_CUT = Truncation(0, 0, 0)


class Done(NamedTuple):
    """What is known of rows that were predicted before.

    Attributes:
      rows: how many, the first of all.
      names: of a prediction's values.
      cut: how much of their text was cut off.
    """

    rows: int = 0
    names: Sequence[str] = ()
    cut: Truncation = NOTHING_CUT


NOTHING_DONE = Done()


@contextlib.contextmanager
def begun(
    output: str, settings: Callable[[], Settings], note: Note
) -> Iterator[tuple[ResumedRows | None, Done]]:
    """What the first process writes to (None in others), and what is there already.

    Args:
      settings: asked in the first process alone.
      note: told that an output is gone on with.

    Raises:
      UserError: it was begun with other settings.
    """
    opened: list[ResumedRows] = []
    with contextlib.ExitStack() as stack:

        def begin() -> int:
            opened.append(stack.enter_context(resumed_output(output, settings())))
            return opened[0].rows

        count = hosts.first_decides(begin)
        rows = opened[0] if opened else None
        records = rows.records if rows is not None else []
        if records:
            note(f"{output}: {count:,} rows are there already, and it goes on after them")
        cut = sum((Truncation(*each["cut"]) for each in records if "cut" in each), NOTHING_CUT)
        names = records[0].get("names", ()) if records else ()
        yield rows, Done(count, names, cut)


def identity(trained: TrainedModel) -> dict[str, Any]:
    """What tells a checkpoint of a run, and how it is used, from others."""
    config = dataclasses.replace(trained.config, distributed=hosts.DistributedConfig())
    manifest = trained.run_dir / "checkpoints" / str(trained.step) / MANIFEST
    adopted = {name: record["manifest"] for name, record in trained.adopted.items()}
    return {
        "jaxssl's version": __version__,
        "step": trained.step,
        "checkpoint": sha256(manifest) if manifest.exists() else None,
        "configuration": hashlib.sha256(to_yaml(config).encode()).hexdigest(),
        "tokenizer": trained.tokenizer.fingerprint,
        **({"adapters": adopted} if adopted else {}),
    }


def content(files: Iterable[TableFile]) -> dict[str, Any]:
    """What tells files, and how they are read, from others."""
    known = list(files)
    how = [{**dataclasses.asdict(file), "path": None} for file in known]
    paths = [path for file in known for path in file_paths(file.path)]
    return {"input": [sha256(path) for path in paths], "how the input is read": how}
