"""generation_config.json of an imported model: how its makers mean texts to end.

It lies beside the run's configuration, ends what `jaxssl generate` writes, and is exported again.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from jaxssl.core.errors import UserError
from jaxssl.core.json_files import JsonObject, read_json

GENERATION = "generation_config.json"
FIX = "restore the file, or delete it"


@dataclasses.dataclass(frozen=True)
class Ends:
    """The tokens that end a text, of `generation_config.json` or `config.json`."""

    eos_token_id: int | list[int] | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """None, one or several."""
        found = self.eos_token_id
        return () if found is None else (found,) if isinstance(found, int) else tuple(found)


def take_over(source: Path, run_dir: Path) -> None:
    """Copies the file to a run; of a model without it, what `config.json` says if it names several
    ends."""
    if (source / GENERATION).is_file():
        shutil.copyfile(source / GENERATION, run_dir / GENERATION)
        return
    ends = _ends(source / "config.json")
    if len(ends.ids) > 1:
        (run_dir / GENERATION).write_text(json.dumps(dataclasses.asdict(ends)) + "\n", "utf-8")


def generation_of(run_dir: Path) -> dict[str, Any] | None:
    """The file's content, or None.

    Raises:
      UserError: it is damaged.
    """
    path = run_dir / GENERATION
    return read_json(path, JsonObject, what=_damaged(path), fix=FIX) if path.is_file() else None


def stop_ids(run_dir: Path, num_tokens: int) -> tuple[int, ...]:
    """The tokens that end a text, if the run has a `generation_config.json` that says so.

    Raises:
      UserError: it is damaged, or names a token that the vocabulary of `num_tokens` does not have.
    """
    path = run_dir / GENERATION
    if not path.is_file():
        return ()
    ids = _ends(path).ids
    wrong = [id_ for id_ in ids if not 0 <= id_ < num_tokens]
    if wrong:
        raise UserError(
            "a text cannot end with a token that is not there",
            where=f"{path}: eos_token_id",
            expected=f"ids of 0 to {num_tokens - 1:,}",
            got=wrong,
            fix="correct the file, then: jaxssl seal RUN",
        )
    return ids


def _ends(path: Path) -> Ends:
    return read_json(path, Ends, what=_damaged(path), fix=FIX)


def _damaged(path: Path) -> str:
    return f"{path.name} is damaged"
