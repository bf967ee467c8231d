"""Checks that frozen parameters did not change, by a fingerprint of each array's bits.

Fingerprints are taken when a run starts and when it ends.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json
from jaxssl.parallel import hosts

FILE_NAME = "frozen.json"


def read_fingerprints(run_dir: Path) -> dict[str, int]:
    """{path: fingerprint} of the arrays that a run keeps frozen, as it noted them when it started;
    none where it did not.

    Raises:
      UserError: the note is damaged.
    """
    path = run_dir / FILE_NAME
    if not path.is_file():
        return {}
    return read_json(
        path,
        dict[str, int],
        what="the note of the frozen parameters' bits is damaged",
        fix="restore it from a copy, or start anew in another run directory",
    )


class FrozenCheck:
    """The fingerprints of a run's frozen parameters, kept in the run directory from its start.

    Args:
      run_dir: of the run.
      found: {path: fingerprint} of the parameters that no stage of the run trains, as it starts or
        resumes.
      resumed: whether something was saved before; else what an earlier start noted is not true.

    Raises:
      UserError: a resumed run has other frozen parameters than it was started with.
    """

    def __init__(self, run_dir: Path, found: Mapping[str, int], *, resumed: bool):
        self.path, self.started = run_dir / FILE_NAME, dict(found)
        if resumed and self.path.is_file():
            self.started = read_fingerprints(run_dir)
            if moved := self.moved(found):
                raise UserError(
                    "the frozen parameters are not those the run was started with",
                    where=self.path,
                    expected=f"{len(self.started)} arrays with these fingerprints",
                    got=f"others: {', '.join(moved[:5])}",
                    fix="start anew in another run directory, or bring the base back",
                )
        elif hosts.is_first():
            self.path.unlink(missing_ok=True)
            if found:
                with atomic_write(self.path) as file:
                    json.dump(self.started, file, indent=1)

    def moved(self, found: Mapping[str, int]) -> list[str]:
        """The arrays whose bits are not what they were at the start."""
        names = self.started.keys() | found.keys()
        return sorted(name for name in names if self.started.get(name) != found.get(name))
