"""The default corpus: docstrings of the Python packages installed in this environment.

Real English of some ten megabytes on any machine that can run jaxssl, with nothing to download.
Files are parsed with `ast`; nothing is imported or executed.
"""

import ast
import gc
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.files import atomic_write
from jaxssl.core.progress import bar
from jaxssl.data.corpus.skipped import SkippedDocuments

SKIPPED_FOLDERS = frozenset({"__pycache__", "test", "tests"})
OWN_PACKAGE = "jaxssl"  # left out: the corpus must not depend on how jaxssl itself is installed
MIN_DOCSTRING = 32  # characters; shorter ones say little more than the function's name
MIN_MODULE = 128


class Module(NamedTuple):
    """The docstrings of one module, in source order, joined by blank lines."""

    path: str
    """Relative to site-packages, with forward slashes: "numpy/linalg/_linalg.py"."""
    text: str

    @property
    def package(self) -> str:
        return self.path.partition("/")[0].removesuffix(".py")


def collect(
    packages: tuple[str, ...] = (),
    max_bytes: int | None = None,
    skipped: SkippedDocuments | None = None,
    *,
    progress: bool = True,
) -> Iterator[Module]:
    """The modules of the corpus, in the order of a hash of their paths so that packages mix.

    The same environment gives the same modules. Exact duplicates of a docstring are dropped, and so
    are very short ones. Files that cannot be parsed are skipped.

    Args:
      packages: see `sources.Docstrings`.
      max_bytes: see there.

    Raises:
      UserError: a package that is not installed, or no docstring at all.
    """
    skipped = skipped or SkippedDocuments()
    files = sorted(_files(packages), key=lambda f: hashlib.sha256(f[0].encode()).digest())
    seen: set[bytes] = set()
    total = 0
    amount = max_bytes or sum(os.path.getsize(file) for _, file in files)
    with bar(total=amount, description="docstrings", unit="B", enabled=progress) as progress_bar:
        for name, file in files:
            data = Path(file).read_bytes()
            text = _document(name, data, seen, skipped)
            if max_bytes and total + len(text.encode()) > max_bytes:
                break
            progress_bar.update(len(text.encode()) if max_bytes else len(data))
            if len(text) >= MIN_MODULE:
                total += len(text.encode())
                yield Module(name, text)
    if not total:
        raise UserError(
            "no docstrings were found in the installed packages",
            where="source.packages",
            expected="packages with Python source files on sys.path",
            got=", ".join(packages) or f"{len(files)} files on sys.path",
            fix="name other packages, or use text files of your own (source.name=text)",
        )


def write_docstrings(modules: Iterable[Module], path: str | Path) -> None:
    """Writes docstrings as jsonl with keys text, id, group and package."""
    with atomic_write(path) as file:
        for module in modules:
            row = {"text": module.text, "id": module.path, "group": module.path}
            file.write(json.dumps({**row, "package": module.package}, ensure_ascii=False) + "\n")


def installed(packages: tuple[str, ...]) -> tuple[int, str]:
    """Size in bytes of all files that `collect` would read, and a SHA-256 of names and sizes."""
    sizes = sorted((name, os.path.getsize(file)) for name, file in _files(packages))
    digest = hashlib.sha256(json.dumps(sizes).encode())
    return sum(size for _, size in sizes), digest.hexdigest()


def _files(packages: tuple[str, ...]) -> list[tuple[str, str]]:
    """(path relative to site-packages, file) of every Python file of the wanted packages."""
    found: dict[str, str] = {}
    tops: set[str] = set()
    for root in _site_packages():
        for folder, folders, names in os.walk(root):
            at_top = folder == str(root)
            below = "" if at_top else folder[len(str(root)) + 1 :].replace(os.sep, "/") + "/"
            folders[:] = [n for n in folders if n not in SKIPPED_FOLDERS and n[0] != "."]
            if at_top:
                folders[:] = [n for n in folders if not n.endswith((".dist-info", ".egg-info"))]
                tops.update(folders, (n[:-3] for n in names if n.endswith(".py")))
                folders[:] = [n for n in folders if _is_wanted(n, packages)]
            for name in names:
                if name.endswith(".py") and (not at_top or _is_wanted(name[:-3], packages)):
                    found.setdefault(below + name, os.path.join(folder, name))
    for package in packages:
        if package not in tops:
            raise UserError(
                "this package is not installed",
                where="source.packages",
                expected="the name a package is imported by",
                got=package,
                fix=did_you_mean(package, tops),
            )
    return list(found.items())


def _site_packages() -> list[Path]:
    """The folders on sys.path that hold installed packages, in order, without duplicates."""
    folders = (Path(p).resolve() for p in sys.path)
    wanted = (f for f in folders if f.name in ("site-packages", "dist-packages") and f.is_dir())
    return list(dict.fromkeys(wanted))


def _is_wanted(top: str, packages: tuple[str, ...]) -> bool:
    return top in packages if packages else top != OWN_PACKAGE


def _document(name: str, source: bytes, seen: set[bytes], skipped: SkippedDocuments) -> str:
    """A module's docstrings that were not seen before, joined by blank lines."""
    if b'"""' not in source and b"'''" not in source:
        return ""
    texts = []
    was_enabled = gc.isenabled()
    gc.disable()  # a syntax tree is many objects without a cycle: twice as fast
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(source)
        for text in _docstrings(tree):
            digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
            if len(text) >= MIN_DOCSTRING and digest not in seen:
                seen.add(digest)
                texts.append(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}"
        skipped.add(name, getattr(error, "lineno", None), reason)
        return ""
    finally:
        if was_enabled:
            gc.enable()
    return "\n\n".join(texts)


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Docstrings of a module, class or function and of all that is defined in it."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield text
    for block in ("body", "orelse", "handlers", "finalbody", "cases"):
        for child in getattr(node, block, None) or ():
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                yield from _docstrings(child)
