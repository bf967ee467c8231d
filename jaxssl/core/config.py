"""Configuration: YAML layers and `a.b=c` overrides in, one validated frozen dataclass out.

A component's configuration is a frozen dataclass beside the component. A field may be a leaf
(checked by pydantic, strictly), another dataclass, or one of several told apart by their `name`: a
union, or a base class with those registered under it (`core.registry`). A mapping without a `name`
is of the kind that its field is by default. Every error of a
configuration is reported at once.
"""

import ast
import dataclasses
import functools
import inspect
import json
import operator
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxssl.core.errors import UserError, UserErrors, did_you_mean
from jaxssl.core.registry import choice_name, is_registered, members

T = TypeVar("T")
MISSING = "a required key is missing"
PLUGIN = "what comes in a file of your own is loaded with --plugin FILE"


# --- Layers ---------------------------------------------------------------------------------


def load(cls: type[T], layers: Iterable[str | Path | Mapping], overrides: Iterable[str] = ()) -> T:
    """Merges `layers` (files or mappings, later ones win) and `overrides`, and validates as
    `cls`."""
    return build(cls, combine(layers, overrides))


def combine(layers: Iterable[str | Path | Mapping], overrides: Iterable[str] = ()) -> dict:
    """Layers and overrides as one nested mapping; nothing is validated."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer if isinstance(layer, Mapping) else read_yaml(layer))
    # One layer together: an override of `name` drops the keys of files, not of other overrides.
    last: Any = {}
    for override in overrides:
        last = merge(last, parse_override(override))
    return merge(merged, last)


def merge(old: Any, new: Any) -> Any:
    """`new` laid over `old`; a mapping that changes `name` replaces the old one whole."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    if "name" in new and new["name"] != old.get("name", new["name"]):
        return dict(new)
    return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}


def parse_override(text: str) -> dict:
    """`a.b=c` as a nested mapping; `c` is read as YAML."""
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise UserError(
            "an override is not of the form key=value",
            where=f"argument {text!r}",
            expected="a.b=value, for example optimizer.learning_rate=3e-4",
            fix="a recipe file must exist to be read as one; check its path",
        )
    parsed: Any = parse_yaml(value, where=f"override {text!r}")
    for key in reversed(path.strip().split(".")):
        parsed = {key: parsed}
    return parsed


def read_yaml(path: str | Path) -> dict:
    """A recipe file as a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("a configuration file cannot be read", where=path, got=error) from error
    data = parse_yaml(text, where=str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(
            "a configuration file must hold a mapping of keys to values",
            where=path,
            expected="key: value",
            got=type(data).__name__,
        )
    return data


def parse_yaml(text: str, where: str) -> Any:
    """YAML with YAML 1.2's booleans and numbers: `3e-4` is a number, `no` is a word."""
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        raise UserError("not valid YAML", where=where, got=str(error)) from error


@functools.cache
def _yaml_loader() -> type:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader with its own table of scalars and no repeated keys."""

        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
            if repeated:
                raise yaml.constructor.ConstructorError(
                    None, None, f"repeated key {repeated[0]!r}", node.start_mark
                )
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {}
    _add_scalars(Loader)

    def construct_int(loader, node):
        return int(loader.construct_scalar(node).replace("_", ""))

    def construct_float(loader, node):
        text = loader.construct_scalar(node).replace("_", "")
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        # `1e6` may stand for an integer; `1.0e6` is a float.
        integral = "." not in text and value.is_integer() and abs(value) < 2**53
        return int(value) if integral else value

    Loader.add_constructor("tag:yaml.org,2002:int", construct_int)
    Loader.add_constructor("tag:yaml.org,2002:float", construct_float)
    return Loader


@functools.cache
def _yaml_dumper() -> type:
    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that quotes every string that would be read as something else."""

    _add_scalars(Dumper)
    return Dumper


def _add_scalars(side: Any) -> None:
    """Teaches a loader or dumper which plain scalars are booleans, nulls and numbers."""
    add = side.add_implicit_resolver
    add("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
    add("tag:yaml.org,2002:null", re.compile(r"^(null|Null|~|)$"), ["n", "N", "~", ""])
    add("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
    number = re.compile(
        r"^[-+]?([0-9][0-9_]*\.[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf|\.nan)$"
    )
    add("tag:yaml.org,2002:float", number, list("-+.0123456789"))


# --- Validation -----------------------------------------------------------------------------


def build(cls: type[T], data: Mapping) -> T:
    """`data` as an instance of the dataclass `cls`; raises every error at once."""
    errors: list[UserError] = []
    value = _build(cls, data, "", errors)
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    return value


def _build(annotation: Any, data: Any, path: str, errors: list[UserError]) -> Any:
    kinds = _members(annotation)
    choices = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    leaves = [kind for kind in kinds if kind not in choices]
    if choices and not _is_leaf(data, leaves):
        return _build_choice(choices, data, path, errors)
    if choices:
        return _build_leaf(functools.reduce(operator.or_, leaves), data, path, errors)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, int])) and isinstance(
        data, Mapping
    ):
        value_type = arguments[1]
        return {key: _build(value_type, v, _join(path, key), errors) for key, v in data.items()}
    if origin is tuple and isinstance(data, list) and arguments[-1] is Ellipsis:
        return tuple(_build(arguments[0], v, f"{path}[{i}]", errors) for i, v in enumerate(data))
    return _build_leaf(annotation, data, path, errors)


def _is_leaf(data: Any, leaves: list) -> bool:
    """Whether a value is meant for what a field may be besides dataclasses: null, or a number."""
    if data is None:
        return types.NoneType in leaves
    is_structure = isinstance(data, Mapping) or dataclasses.is_dataclass(data)
    return not is_structure and any(leaf is not types.NoneType for leaf in leaves)


def _build_choice(choices: list, data: Any, path: str, errors: list[UserError]) -> Any:
    if dataclasses.is_dataclass(data) and type(data) in choices:
        return data
    if not isinstance(data, Mapping):
        names = " or ".join(choice.__name__ for choice in choices)
        errors.append(
            UserError("wrong type", where=path, expected=f"a mapping ({names})", got=repr(data))
        )
        return None
    if len(choices) == 1:
        return _build_dataclass(choices[0], data, path, errors)
    by_name = {choice_name(choice): choice for choice in choices}
    name = data.get("name")
    if name not in by_name:
        errors.append(
            UserError(
                "a missing or unknown name",
                where=_join(path, "name"),
                expected="one of " + ", ".join(map(str, by_name)),
                got=repr(name),
                fix=did_you_mean(str(name), map(str, by_name))
                or (PLUGIN if is_registered(choices[0]) else None),
            )
        )
        return None
    return _build_dataclass(by_name[name], data, path, errors, choices)


def _build_dataclass(
    cls: type, data: Mapping, path: str, errors: list[UserError], choices: Sequence[type] = ()
) -> Any:
    fields = _fields_by_key(cls)
    before = len(errors)
    errors += [_unknown(key, cls, choices, path) for key in data if key not in fields]
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            value = _with_name(data[name], field.default)
            values[field.name] = _build(hints[field.name], value, _join(path, name), errors)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append(_missing(hints[field.name], _join(path, name)))
    if len(errors) > before:
        return None
    try:
        return cls(**values)
    except UserError as error:
        where = ".".join(str(part) for part in (path, error.where) if part)
        errors.append(
            UserError(
                error.what, where=where, expected=error.expected, got=error.got, fix=error.fix
            )
        )
        return None


def _fields_by_key(cls: type) -> dict[str, dataclasses.Field]:
    return {key_of(field): field for field in dataclasses.fields(cls) if field.init}


def _with_name(data: Any, default: Any) -> Any:
    """A mapping without `name` is of the kind that its field is by default."""
    if not (isinstance(data, Mapping) and dataclasses.is_dataclass(default)) or "name" in data:
        return data
    name = choice_name(type(default))
    return data if name is None else {"name": name, **data}


def _unknown(key: object, cls: type, choices: Sequence[type], path: str) -> UserError:
    """A key that `cls` does not have; it may be one of another of the `choices`."""
    fields = _fields_by_key(cls)
    owners = [str(choice_name(choice)) for choice in choices if key in _fields_by_key(choice)]
    fix = did_you_mean(str(key), fields)
    if owners:
        fix = f"leave it out, or set {_join(path, 'name')}={owners[0]}"
    return UserError(
        f"unknown key: a setting of {', '.join(owners)}" if owners else "unknown key",
        where=_join(path, key),
        expected="one of " + ", ".join(sorted(fields)),
        got=repr(key),
        fix=fix,
    )


def _missing(annotation: Any, where: str) -> UserError:
    """A key that must be given and was not."""
    choices = [c for c in _members(annotation) if dataclasses.is_dataclass(c)]
    names = [choice_name(typing.cast(type, choice)) for choice in choices]
    known = [name for name in names if name]
    return UserError(
        MISSING,
        where=where,
        expected=f"a mapping whose name is one of {', '.join(known)}"
        if len(known) > 1
        else type_name(annotation),
        fix=f"give {where}{'.name' if known else ''}=... on the command line or in a file",
    )


def _build_leaf(annotation: Any, data: Any, path: str, errors: list[UserError]) -> Any:
    import pydantic

    try:
        # Strict JSON mode: no "3" for 3, no true for 1, but a list is accepted for a tuple.
        return pydantic.TypeAdapter(annotation).validate_json(json.dumps(data), strict=True)
    except pydantic.ValidationError as error:
        detail = error.errors()[0]["msg"]
        errors.append(
            UserError(
                "wrong type or value",
                where=path,
                expected=f"{type_name(annotation)} ({detail})",
                got=repr(data),
                fix=_how_to_write(annotation, data, path),
            )
        )
    except (TypeError, ValueError) as error:
        errors.append(UserError("wrong type", where=path, expected=error, got=repr(data)))
    return None


def _how_to_write(annotation: Any, data: Any, path: str) -> str | None:
    """What a value of this type looks like in a file or an override."""
    kinds = _members(annotation)
    words = [
        v for kind in kinds if typing.get_origin(kind) is typing.Literal for v in kind.__args__
    ]
    if words:
        close = [w for w in words if isinstance(data, str) and len(data) > 1 and data in str(w)]
        return (
            f"did you mean {' or '.join(map(repr, close))}?"
            if close
            else did_you_mean(str(data), map(str, words))
        )
    if any(typing.get_origin(kind) is tuple for kind in kinds) and not isinstance(data, list):
        return f"write a list, in brackets: '{path}=[{data}]'"
    if str in kinds and isinstance(data, int | float):
        return f"a text that looks like a number is quoted: '{path}=\"{data}\"'"
    samples = {bool: "true", int: "1000", float: "0.1 or 3e-4"}
    samples = [text for kind, text in samples.items() if kind in kinds]
    return f"write {path}={samples[0]}, for example, without quotes" if samples else None


def _members(annotation: Any) -> tuple:
    """What a value may be: the members of a union, registered classes in place of their base."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    alternatives = typing.get_args(annotation) if is_union else (annotation,)
    return tuple(member for each in alternatives for member in members(each) or (each,))


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def key_of(field: dataclasses.Field) -> str:
    """A field's key in files: its name, or `from` for `from_`, which Python keeps for itself."""
    return field.name.removesuffix("_")


# --- Printing -------------------------------------------------------------------------------


def to_dict(config: Any) -> Any:
    """A configuration as plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {key_of(f): to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return config


def to_yaml(config: Any) -> str:
    """A configuration as YAML that `load` reads back to an equal configuration."""
    import yaml

    return yaml.dump(to_dict(config), Dumper=_yaml_dumper(), sort_keys=False, width=100)


def type_name(annotation: Any) -> str:
    """A type as a user would write it."""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    kinds = _members(annotation)
    if len(kinds) > 1:
        return " | ".join(type_name(kind) for kind in kinds)
    if annotation is types.NoneType:
        return "null"
    if typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("collections.abc.", "")
    return getattr(annotation, "__name__", str(annotation))


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
        kinds = _members(item)
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
    if origin is tuple and any(map(dataclasses.is_dataclass, _members(arguments[0]))):
        return arguments[0], " (a list)"
    if origin is dict and any(map(dataclasses.is_dataclass, _members(arguments[1]))):
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
