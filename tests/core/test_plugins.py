"""Plugins are imported because they are named, once, and what is wrong with one is told."""

import hashlib
import importlib
import sys

import plugged
import pytest

from jaxssl.core import plugins
from jaxssl.core.errors import UserError
from jaxssl.core.registry import members
from jaxssl.optim.schedules import Schedule

FLAT = """
from dataclasses import dataclass
from typing import Literal
from jaxssl import Schedule, register

@dataclass(frozen=True, kw_only=True)
class Flat(Schedule):
    name: Literal["{name}"] = "{name}"
    def make(self, peak, total_steps, tokens_per_step):
        return lambda step: peak

register(Schedule, Flat)
"""


@pytest.fixture(autouse=True)
def afterwards():
    with plugged.unplugged():
        yield


def write(path, text=None, name="flat"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(FLAT.format(name=name) if text is None else text)
    return str(path)


def refused(*given) -> UserError:
    before = members(Schedule), set(sys.modules), plugins.loaded()
    with pytest.raises(UserError) as caught:
        plugins.load(given)
    assert (members(Schedule), plugins.loaded()) == (before[0], before[2])
    assert not {"mine", "broken"} & (set(sys.modules) - before[1])
    return caught.value


def test_a_file_registers_and_is_known_by_its_name_and_checksum(tmp_path):
    path = write(tmp_path / "mine.py")
    plugins.load([path])
    (plugin,) = plugins.loaded()
    assert (plugin.name, plugin.given) == ("mine", "mine.py")
    assert plugin.sha256 == hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert plugin.registers == ("Schedule flat",)
    assert sys.modules["mine"].Flat in members(Schedule)
    assert not (tmp_path / "__pycache__").exists()


def test_it_is_imported_once(tmp_path):
    write(tmp_path / "mine.py", FLAT.format(name="flat") + "\nprint('imported')\n")
    plugins.load([str(tmp_path / "mine.py")])
    first = sys.modules["mine"].Flat
    plugins.load([str(tmp_path / ".." / tmp_path.name / "mine.py")] * 2)
    assert sys.modules["mine"].Flat is first and len(plugins.loaded()) == 1


def test_a_module_that_a_program_imported_by_itself_is_not_imported_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = write(tmp_path / "mine.py")
    first = importlib.import_module("mine").Flat
    plugins.load([path, "mine"])
    (plugin,) = plugins.loaded()
    assert plugin.registers == ("Schedule flat",) and first in members(Schedule)


def test_a_package_has_the_checksum_of_all_its_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def checksum():
        with plugged.unplugged():
            plugins.load(["their_package"])
            for name in [name for name in sys.modules if name.startswith("their_package.")]:
                del sys.modules[name]
            return plugins.loaded()[0].sha256

    write(tmp_path / "their_package" / "__init__.py", "from their_package import flat\n")
    write(tmp_path / "their_package" / "flat.py")
    one = checksum()
    assert checksum() == one
    write(tmp_path / "their_package" / "flat.py", FLAT.format(name="flat") + "# changed\n")
    assert checksum() != one


def test_a_file_that_is_not_there_is_told(tmp_path):
    error = refused(str(tmp_path / "mine.py"))
    assert "no such plugin" in error.what and error.got == "no file"
    assert "mine.py" in str(error.where)
    (tmp_path / "other.py").mkdir()
    assert refused(str(tmp_path / "other.py")).got == "a directory"


def test_a_module_that_is_not_there_is_told_and_a_file_of_its_name_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py")
    error = refused("mine")
    assert error.got == "no such module" and error.fix == "did you mean mine.py?"
    assert refused("no.such.module").fix is None
    assert "built-in" in str(refused("math").got) or ".so" in str(refused("math").got)


def test_a_package_around_a_module_that_fails_is_told(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "broken" / "__init__.py", "import no_such_package\n")
    write(tmp_path / "broken" / "flat.py")
    error = refused("broken.flat")
    assert "could not be imported" in error.what and "no_such_package" in str(error.got)
    write(tmp_path / "broken" / "__init__.py", "raise ValueError('no good')  # changed\n")
    error = refused("broken.flat")
    assert "no good" in str(error.got) and "__init__.py, line 1" in str(error.where)
    assert refused("no/such").got == refused("broken.py").got == "no file"
    assert refused("not-a-name").got == "no such module"


@pytest.mark.parametrize(
    ("text", "got", "line"),
    [
        ("x = 1\n\nraise RuntimeError('no good')\n", "RuntimeError: no good", 3),
        ("import no_such_package\n", "No module named 'no_such_package'", 1),
        ("def f():\n    return {}[1]\n\nf()\n", "KeyError: 1", 2),
        ("import json\njson.loads('{')\n", "JSONDecodeError", 2),
        ("x = (\n", "SyntaxError", 1),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", 2),
    ],
)
def test_a_file_that_fails_is_told_with_its_own_last_line(text, got, line, tmp_path):
    path = write(tmp_path / "broken.py", text)
    error = refused(path)
    assert f"broken.py, line {line}" in str(error.where) and got in str(error.got), error


def test_what_it_registered_before_it_failed_is_forgotten(tmp_path):
    refused(write(tmp_path / "broken.py", FLAT.format(name="flat") + "\n1 / 0\n"))


def test_a_file_that_registers_nothing_is_refused(tmp_path):
    error = refused(write(tmp_path / "mine.py", "x = 1\n"))
    assert "registers nothing" in error.what and "register(" in str(error.expected)
    assert "registers nothing" in refused("colorsys").what


def test_a_file_may_not_stand_in_the_place_of_a_module_or_another_plugin(tmp_path):
    assert "json" in str(refused(write(tmp_path / "json.py")).got)
    assert "optax" in str(refused(write(tmp_path / "optax.py")).got)
    plugins.load([write(tmp_path / "one" / "mine.py")])
    error = refused(write(tmp_path / "two" / "mine.py", name="other"))
    assert str(tmp_path / "one" / "mine.py") in str(error.got) and error.fix == "rename the file"
    assert "letters" in str(refused(write(tmp_path / "my-own.py")).expected)


def test_a_name_that_jaxssl_has_is_refused(tmp_path):
    error = refused(write(tmp_path / "mine.py", name="linear"))
    assert error.where == "mine.Flat" and "jaxssl.optim.schedules.Linear" in str(error.expected)


def test_a_class_without_a_name_is_refused(tmp_path):
    text = "from jaxssl import Schedule, register\n\nclass Bad: ...\n\nregister(Schedule, Bad)\n"
    error = refused(write(tmp_path / "mine.py", text))
    assert "cannot be chosen" in error.what and "name: Literal" in str(error.expected)
