"""Plugins in tests: a command has those that it names and leaves nothing of them behind."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from jaxssl import cli
from jaxssl.core import plugins, registry
from jaxssl.core.config import documentation
from jaxssl.run import plugins as noted

PLUGINS = Path(__file__).parent / "plugins"
DOCS = Path(__file__).parent.parent / "docs"


@contextlib.contextmanager
def unplugged() -> Iterator[None]:
    """Inside, plugins may be loaded; afterwards they are not, and their names are free."""
    before, loaded, modules = registry.snapshot(), dict(plugins._LOADED), set(sys.modules)
    try:
        yield
    finally:
        for name in plugins._LOADED.keys() - loaded.keys() - modules:
            del sys.modules[name]
        plugins._LOADED.clear()
        plugins._LOADED.update(loaded)
        registry.restore(before)
        documentation._class_bodies.cache_clear()
        noted.warn.cache_clear()


def command(*arguments: object) -> int:
    """The exit code of one command, in this process as it would be in one of its own."""
    with unplugged():
        return cli.main([str(argument) for argument in arguments])


def named(*files: Path) -> list[object]:
    """The options that name plugins."""
    return [word for file in files for word in ("--plugin", file)]


def shown(page: str, name: str, out: Path, number: int = 0) -> Path:
    """A file of code that a page of the documentation shows, written to `out`/`name`.py."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    path = out / f"{name}.py"
    path.write_text(blocks[number])
    return path
