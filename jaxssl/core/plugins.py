"""Code of the user's own, imported because the command named it: a file, or an installed module.

Nothing else imports a plugin. What a recipe or a run directory says is data.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxssl.core import registry
from jaxssl.core.errors import UserError

SUFFIX = ".py"


@dataclass(frozen=True)
class Plugin:
    """A plugin that was imported.

    Attributes:
      name: of its module: what a run asks for. A file's is the file's name without `.py`.
      given: the file or the module, as `--plugin` takes it again.
      sha256: of its source; of a package, of all its .py files.
      registers: "Objective wrong_words": the base and the name of each thing it registered.
    """

    name: str
    given: str
    sha256: str
    registers: tuple[str, ...] = ()


_LOADED: dict[str, tuple[Path, Plugin]] = {}
"""By name, with the file that each is."""


def loaded() -> tuple[Plugin, ...]:
    """The plugins that were imported so far, in that order."""
    return tuple(plugin for _, plugin in _LOADED.values())


def load(given: Iterable[str]) -> None:
    """Imports plugins, each once, which registers what they have.

    Args:
      given: paths of files that end in `.py`, and names of installed modules.

    Raises:
      UserError: one is not there, hides another module, fails, or registers nothing.
    """
    for one in given:
        if one.endswith(SUFFIX) or "/" in one or "\\" in one:
            _load_file(Path(one))
        else:
            _load_module(one)


# --- Files --------------------------------------------------------------------------------------


def _load_file(path: Path) -> None:
    name, place = path.stem, path.resolve()
    if not path.is_file() or path.suffix != SUFFIX:
        raise UserError(
            "no such plugin",
            where=f"--plugin {path}",
            expected="a Python file (my_objective.py), or the name of an installed module",
            got="a directory" if path.is_dir() else "another file" if path.is_file() else "no file",
            fix="give the path of the file; it may be relative to where you are",
        )
    if name in _LOADED and _LOADED[name][0] == place:
        return
    _check_name(name, place)
    source = path.read_bytes()
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)

    def run() -> None:
        sys.modules[name] = module
        # What was read is run, and its checksum is noted: no cached bytecode of another version.
        exec(compile(source, str(place), "exec"), module.__dict__)

    new = _import(f"--plugin {path}", name, place, run)
    _LOADED[name] = place, Plugin(name, path.name, hashlib.sha256(source).hexdigest(), new)


def _check_name(name: str, place: Path) -> None:
    """Refuses a file whose module would stand in the place of another."""
    if not name.isidentifier():
        raise UserError(
            "a plugin's file name is no name of a module",
            where=place,
            expected="letters, digits and _, a letter first",
            got=name,
            fix="rename the file",
        )
    other = _LOADED[name][0] if name in _LOADED else _module_file(name)
    if other is not None and other != place:
        raise UserError(
            "a plugin has the name of another module",
            where=place,
            expected="a name that no other plugin and no installed module has",
            got=f"{name}, which is {other}",
            fix="rename the file",
        )


def _module_file(name: str) -> Path | None:
    """Where Python would find a module of this name; None where it finds none."""
    there = sys.modules.get(name)
    spec = importlib.util.find_spec(name) if there is None else there.__spec__
    if there is None and spec is None:
        return None
    return Path(spec.origin or name).resolve() if spec is not None else Path(name)


# --- Modules ------------------------------------------------------------------------------------


def _load_module(name: str) -> None:
    if name in _LOADED:
        return
    where, spec = f"--plugin {name}", _find_module(name)
    if spec is None or spec.origin is None or not spec.origin.endswith(SUFFIX):
        raise UserError(
            "no such plugin",
            where=where,
            expected="the name of an installed module that is written in Python, or a file "
            "(my_objective.py)",
            got="no such module" if spec is None else f"a module of {spec.origin or 'no file'}",
            fix=f"did you mean {name}{SUFFIX}?" if Path(name + SUFFIX).is_file() else None,
        )
    place = Path(spec.origin).resolve()
    digest = _source_digest(place)
    new = _import(where, name, place, lambda: importlib.import_module(name))
    _LOADED[name] = place, Plugin(name, name, digest, new)


def _find_module(name: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is, or None; the packages around it are imported."""
    package, *_ = name.split(".")
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    try:
        return importlib.util.find_spec(name)
    except Exception as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        if is_missing and f"{name}.".startswith(f"{error.name}."):  # a package around it, or it
            return None
        raise _failed(f"--plugin {name}", Path(package), error) from error


def _source_digest(place: Path) -> str:
    """The SHA-256 of a module's source, of all files where it is a package."""
    if place.name != "__init__.py":
        return hashlib.sha256(place.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(place.parent.rglob(f"*{SUFFIX}")):
        digest.update(f"{path.relative_to(place.parent).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


# --- Both ---------------------------------------------------------------------------------------


def _import(where: str, name: str, place: Path, run: Callable[[], object]) -> tuple[str, ...]:
    """What a plugin registers; one that is refused leaves nothing behind.

    Args:
      run: imports it.
    """
    before, modules = registry.snapshot(), set(sys.modules)
    try:
        if name not in modules:  # else a program has imported it by itself, or another plugin
            run()
        new = _of_plugin(name, before, registry.snapshot())
        if not new:
            raise UserError(
                "a plugin registers nothing",
                where=where,
                expected="a line such as register(Objective, MyObjective) at its end",
                got=str(place),
                fix="see docs/plugins.md; `from jaxssl import Objective, register`",
            )
    except BaseException as error:
        registry.restore(before)
        if name not in modules:
            sys.modules.pop(name, None)
        if isinstance(error, UserError | KeyboardInterrupt):
            raise
        raise _failed(where, place, error) from error
    return new


def _of_plugin(name: str, before: registry.Members, after: registry.Members) -> tuple[str, ...]:
    """What was not registered before, or is of a class of the plugin's, as "base name"."""

    def is_own(one):
        return f"{registry.class_of(one).__module__}.".startswith(f"{name}.")

    return tuple(
        f"{base.__name__} {key}"
        for base, known in after.items()
        for key, one in known.items()
        if before.get(base, {}).get(key) is not one or is_own(one)
    )


def _failed(where: str, place: Path, error: BaseException) -> UserError:
    """What an exception in a plugin says, and on which of the plugin's lines it came up."""
    inside = place.parent if place.name == "__init__.py" else place
    frames = traceback.extract_tb(error.__traceback__)
    others = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<")]
    lines = [f for f in frames if Path(f.filename).is_relative_to(inside)] or others
    file, line = (lines[-1].filename, lines[-1].lineno) if lines else (str(place), None)
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    return UserError(
        "a plugin could not be imported",
        where=f"{where}: {file}" + (f", line {line}" if line else ""),
        expected="code that runs to its end",
        got=f"{type(error).__name__}: {error}",
        fix="correct that line",
    )
