"""Which plugins a run was trained with: noted in its directory, and asked for when it is opened.

A note is compared with what the command has loaded. Nothing is imported because of it.
"""

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

# What comes with jaxssl takes its names before a plugin could.
import jaxssl.checkpoint.hf.families  # noqa: F401
import jaxssl.models.registry  # noqa: F401
import jaxssl.objectives.registry  # noqa: F401
import jaxssl.optim.registry  # noqa: F401
import jaxssl.scores.registry  # noqa: F401
import jaxssl.tasks.registry  # noqa: F401
import jaxssl.transfer.peft.registry  # noqa: F401
from jaxssl.core import plugins
from jaxssl.core.errors import UserError
from jaxssl.core.files import atomic_write
from jaxssl.core.json_files import read_json
from jaxssl.core.plugins import Plugin

FILE_NAME = "plugins.json"


def load_plugins(*given: str) -> None:
    """Imports plugins as `--plugin` does: files (`my_objective.py`) or installed modules.

    Raises:
      UserError: one is not there, hides another module, fails, or registers nothing.
    """
    plugins.load(given)


def note_plugins(run_dir: Path) -> None:
    """Writes down what is loaded now; a run without plugins has no note."""
    path = run_dir / FILE_NAME
    if not plugins.loaded():
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        json.dump({"plugins": [asdict(plugin) for plugin in plugins.loaded()]}, file, indent=2)


def read_plugins(run_dir: Path) -> tuple[Plugin, ...]:
    """The plugins that a run notes; none where there is no note.

    Raises:
      UserError: the note is damaged.
    """
    path = run_dir / FILE_NAME
    if not os.path.lexists(path):
        return ()
    what, fix = "the note of a run's plugins is damaged", "restore it from a copy"
    return tuple(read_json(path, dict[str, list[Plugin]], what=what, fix=fix).get("plugins", ()))


@functools.cache
def warn(line: str) -> None:
    """Tells it on standard error, once: a run is opened several times by one command."""
    print(line, file=sys.stderr)


def check_plugins(
    run_dir: Path, say: Callable[[str], None] = warn, *, registers: str | None = None
) -> None:
    """Refuses to open a run whose plugins the command did not load.

    Args:
      say: is told of each plugin that is not what it was.
      registers: asks only for the plugin that has this: "ModelConfig my_family".

    Raises:
      UserError: names those that are missing.
    """
    there = {plugin.name: plugin for plugin in plugins.loaded()}
    noted = [
        plugin
        for plugin in read_plugins(run_dir)
        if registers is None or registers in plugin.registers
    ]
    missing = [plugin for plugin in noted if plugin.name not in there]
    if missing:
        raise _missing(run_dir, missing)
    for plugin in noted:
        now = there[plugin.name]
        if now.sha256 != plugin.sha256:
            say(
                f"warning: plugin {now.given} is not what {run_dir} was trained with: its source "
                f"has SHA-256 {now.sha256[:16]}..., and had {plugin.sha256[:16]}..."
            )


def _missing(run_dir: Path, missing: Sequence[Plugin]) -> UserError:
    several = len(missing) > 1
    return UserError(
        f"this run was trained with {'plugins' if several else 'a plugin'} that the command does "
        "not name",
        where=run_dir,
        expected=" ".join(f"--plugin {plugin.given}" for plugin in missing),
        got="no such option",
        fix=f"give --plugin {missing[0].given}, with the path of the file if it is one; code is "
        "run only when the command names it",
    )
