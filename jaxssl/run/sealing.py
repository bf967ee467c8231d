"""The seal of a run: what decides its results is compared whenever the run is opened.

`seal.json` is over the configuration, the tokenizer, and the notes of what the run is and where it
started, those that it does not have included. Checkpoints have manifests of their own. A run of
version 0.1 has no seal until it goes on.
"""

from pathlib import Path

from jaxssl.core.errors import UserError
from jaxssl.core.seal import SEAL, NewerVersion, check_seal, seal
from jaxssl.data.store.manifest import MANIFEST, seal_store

FILES = (
    "config.yaml",
    "run.json",
    "base.json",
    "ledger.json",
    "plugins.json",
    "generation_config.json",
)


def seal_run(run_dir: Path) -> None:
    """Notes the files as they are now."""
    seal(run_dir, FILES, folders=["tokenizer"])


def break_seal(run_dir: Path) -> None:
    """Takes the seal away before files of the run are written anew."""
    (run_dir / SEAL).unlink(missing_ok=True)


def accept(directory: Path) -> list[str]:
    """Seals a run or a token store as it is now; says what was changed since it was sealed.

    Raises:
      UserError: it is neither.
      NewerVersion: its seal notes what this version does not know.
    """
    is_run = (directory / "config.yaml").is_file()
    if not is_run and not (directory / MANIFEST).is_file():
        raise UserError(
            "neither a run nor a token store",
            where=directory,
            expected="a directory with config.yaml or manifest.json",
            got="none of them" if directory.is_dir() else "no such directory",
        )
    try:
        lines = [] if check_seal(directory) else [f"{directory} had no seal"]
    except NewerVersion:
        raise
    except UserError as error:
        lines = [f"accepted as it is now: {error.where}"]
    if is_run:
        seal_run(directory)
    else:
        seal_store(directory)
    return [*lines, f"sealed: {directory}"]
