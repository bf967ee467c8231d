"""What the source says of a configuration's fields: the string literal below each of them."""

import ast
import functools
import inspect
import sys
from dataclasses import is_dataclass

from jaxssl.core.registry import choice_name


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The attribute docstrings of a dataclass, by the fields' names."""
    docs: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if is_dataclass(c)]):
        body = _class_bodies(base.__module__)[base.__qualname__]
        for statement, following in zip(body, body[1:]):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr)):
                continue
            text = getattr(following.value, "value", None)
            if isinstance(text, str) and isinstance(statement.target, ast.Name):
                docs[statement.target.id] = " ".join(text.split())
    return docs


def choice_docs(choices: tuple[type, ...]) -> dict[type, str]:
    """What each of several dataclasses is that a field may be: what its `name` says, or, where
    that is the same of all, the first paragraph of the class's docstring."""
    of_names = {choice: field_docs(choice).get("name", "") for choice in choices}
    if len(choices) == 1 or len(set(of_names.values())) == len(choices):
        return of_names
    return {choice: _first_paragraph(choice) or of_names[choice] for choice in choices}


def _first_paragraph(cls: type) -> str:
    """None of a dataclass without a docstring: the standard library makes a signature of it."""
    doc = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    made = f"{cls.__name__}("
    return "" if doc.startswith(made) else " ".join(doc.split("\n\n")[0].split())


def names_of(choices: tuple[type, ...]) -> list[str]:
    """The values of `name` that tell choices apart."""
    return [name for name in map(choice_name, choices) if name is not None]


@functools.cache
def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each class of a module, by its qualified name; a file is parsed once, which
    takes longer than all else that is done for `--help`."""
    bodies: dict[str, list[ast.stmt]] = {}

    def visit(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                bodies[inside + child.name] = child.body
                visit(child, f"{inside}{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                visit(child, f"{inside}{child.name}.<locals>.")
            else:
                visit(child, inside)

    visit(ast.parse(inspect.getsource(sys.modules[module])), "")
    return bodies
