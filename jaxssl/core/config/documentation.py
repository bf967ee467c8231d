"""What `--help` says of a configuration: each field with its type, default and docstring."""

import ast
import dataclasses
import functools
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from jaxssl.core.config.fields import key_of, members_of, type_name
from jaxssl.core.config.printing import to_dict
from jaxssl.core.registry import choice_name


def document(cls: type, defaults: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Lines that document every field of `cls`, with type and default, for `--help`.

    Args:
      defaults: a layer below all others, whose values are the defaults where it has any.
    """
    return _document(cls, defaults or {}, 0, set())


def _document(cls: type, defaults: Mapping, indent: int, seen: set[type]) -> Iterator[str]:
    pad, hints, docs = "  " * indent, typing.get_type_hints(cls), field_docs(cls)
    seen.add(cls)
    for field in dataclasses.fields(cls):
        given = defaults.get(key_of(field), dataclasses.MISSING)
        item, several = _item(hints[field.name])
        kinds = members_of(item)
        choices = [typing.cast(type, kind) for kind in kinds if dataclasses.is_dataclass(kind)]
        if not choices:
            yield f"{pad}{key_of(field)}: {type_name(item)}{_default(field, given)}"
        else:
            yield f"{pad}{key_of(field)}:{several}{_chosen(field, kinds, given)}"
        yield from _wrapped(docs.get(field.name, ""), indent + 2)
        for choice in choices:
            if len(choices) > 1:
                known = " (described above)" if choice in seen else ""
                yield f"{pad}  --- {field.name}.name={choice_name(choice)}{known}"
            if choice not in seen:
                below = given if isinstance(given, Mapping) else {}
                is_it = below.get("name", choice_name(choice)) == choice_name(choice)
                yield from _document(choice, below if is_it else {}, indent + 1, seen)


def _item(annotation: Any) -> tuple[Any, str]:
    """What a list or a mapping holds, and a word for which of them it is; else `annotation`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple and any(map(dataclasses.is_dataclass, members_of(arguments[0]))):
        return arguments[0], " (a list)"
    if origin is dict and any(map(dataclasses.is_dataclass, members_of(arguments[1]))):
        return arguments[1], " (by name)"
    return annotation, ""


def _chosen(field: dataclasses.Field, kinds: tuple, given: Any) -> str:
    """What a field of dataclasses is when it is not given."""
    optional = " (or null)" if types.NoneType in kinds else ""
    if isinstance(given, Mapping) and "name" in given:
        return f"{optional} = {given['name']}"
    if field.default is dataclasses.MISSING or field.default is None or field.default == ():
        return optional + _default(field, dataclasses.MISSING)
    name = choice_name(type(field.default))
    return f"{optional} = {name}" if name and len(kinds) > 1 else optional


def _default(field: dataclasses.Field, given: Any) -> str:
    value = field.default if given is dataclasses.MISSING else given
    if value is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "  (required)"
    return f" = {json.dumps(to_dict(value), default=str)}"


def _wrapped(text: str, indent: int) -> Iterator[str]:
    pad = "  " * indent
    yield from textwrap.wrap(
        text, 98, initial_indent=pad, subsequent_indent=pad, break_on_hyphens=False
    )


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The attribute docstrings of a dataclass: the string literal below each field."""
    docs: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        body = _class_bodies(base.__module__)[base.__qualname__]
        for statement, following in zip(body, body[1:]):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr)):
                continue
            text = getattr(following.value, "value", None)
            if isinstance(text, str) and isinstance(statement.target, ast.Name):
                docs[statement.target.id] = " ".join(text.split())
    return docs


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
