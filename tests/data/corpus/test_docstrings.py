"""The docstring corpus: what `help` would show, from packages that are never imported."""

import importlib.util
import inspect
import sys

import pytest

from jaxssl.core.errors import UserError
from jaxssl.data.corpus.docstrings import collect
from jaxssl.data.corpus.skipped import SkippedDocuments
from jaxssl.data.corpus.sources import Docstrings

LONG = "This sentence makes the docstring long enough to be kept, number {}. "
MODULE = '''
"""Module {0}. {1}"""
class A:
    """Class A of {0}.

        {1}
        indented
    """
    async def f(self):
        """Method f of {0}. {1}"""
if True:
    def g():
        """Function g of {0}. {1}"""
def shared():
    """The same text in every module, exactly the same and long enough to keep."""
def tiny():
    """Tiny."""
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site-packages folder with three packages; the only one on sys.path."""
    site = tmp_path / "site-packages"
    for i, name in enumerate(["one/__init__.py", "one/deep/m.py", "two.py", "one/tests/t.py"]):
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODULE.format(name, LONG.format(i) * 3))
    (site / "three").mkdir()
    (site / "three/raises.py").write_text('"""' + LONG.format(9) * 3 + '"""\nraise SystemExit\n')
    (site / "three/broken.py").write_text('def f(:\n    """' + LONG.format(8) * 3 + '"""\n')
    (site / "jaxssl").mkdir()
    (site / "jaxssl/own.py").write_text(MODULE.format("own", LONG * 3))
    others = [p for p in sys.path if "-packages" not in p]
    monkeypatch.setattr(sys, "path", [*others, str(site)])
    return site


def test_a_document_holds_what_inspect_finds(site):
    modules = {m.path: m for m in collect(progress=False)}
    assert set(modules) == {"one/__init__.py", "one/deep/m.py", "two.py", "three/raises.py"}
    spec = importlib.util.spec_from_file_location("two", site / "two.py")
    two = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(two)
    expected = [inspect.getdoc(x) for x in (two, two.A, two.A.f, two.g)]
    parts = modules["two.py"].text.split("\n\n")
    assert "\n\n".join(expected).split("\n\n") == [p for p in parts if "same text" not in p]
    texts = "".join(m.text for m in modules.values())
    assert texts.count("The same text in every module") == 1 and "Tiny" not in texts
    assert modules["one/deep/m.py"].package == "one" and modules["two.py"].package == "two"


def test_files_that_cannot_be_parsed_are_set_aside(site, tmp_path):
    with SkippedDocuments(tmp_path / "aside.jsonl") as aside:
        list(collect(skipped=aside, progress=False))
    assert aside.count == 1
    assert '"three/broken.py", "line": 1' in (tmp_path / "aside.jsonl").read_text()


def test_packages_can_be_chosen_and_a_missing_one_is_named(site):
    found = {m.path for m in collect(packages=("two", "three"), progress=False)}
    assert found == {"two.py", "three/raises.py"}
    with pytest.raises(UserError, match="did you mean 'three'"):
        list(collect(packages=("thre",), progress=False))


def test_a_limit_keeps_a_prefix_of_the_same_order(site):
    everything = list(collect(progress=False))
    limit = sum(len(m.text.encode()) for m in everything[:2]) + 5
    assert list(collect(max_bytes=limit, progress=False)) == everything[:2]


def test_the_corpus_in_a_file_and_the_reader_agree(site, tmp_path):
    source = Docstrings()
    collected = [
        (d.text, d.id, d.metadata["group"]) for d in source.collected(tmp_path).reader().run()
    ]
    for tasks in (1, 3):
        parts = [source.reader().run(None, rank, tasks) for rank in range(tasks)]
        read = [(d.text, d.id, d.metadata["group"]) for part in parts for d in part]
        assert sorted(read) == sorted(collected)


def test_an_environment_without_docstrings_is_refused(site, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("site-packages")])
    with pytest.raises(UserError, match="no docstrings"):
        list(collect(progress=False))
