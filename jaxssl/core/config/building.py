"""Plain data as a frozen dataclass: every value checked, every error of it raised at once.

Leaves are checked by pydantic, strictly.
"""

import dataclasses
import functools
import json
import operator
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxssl.core.config.fields import fields_by_key, members_of, type_name
from jaxssl.core.config.layers import combine
from jaxssl.core.config.mistakes import (
    how_to_write,
    joined,
    missing_key,
    no_mapping,
    unknown_key,
    unknown_name,
)
from jaxssl.core.errors import UserError, UserErrors
from jaxssl.core.registry import choice_name

T = TypeVar("T")


def load(cls: type[T], layers: Iterable[str | Path | Mapping], overrides: Iterable[str] = ()) -> T:
    """Merges `layers` (files or mappings, later ones win) and `overrides`, and validates as
    `cls`."""
    return build(cls, combine(layers, overrides))


def build(cls: type[T], data: Mapping) -> T:
    """`data` as an instance of the dataclass `cls`; raises every error at once."""
    errors: list[UserError] = []
    value = _build(cls, data, "", errors)
    if errors:
        raise errors[0] if len(errors) == 1 else UserErrors(errors)
    return value


def _build(annotation: Any, data: Any, path: str, errors: list[UserError]) -> Any:
    kinds = members_of(annotation)
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
        return {key: _build(value_type, v, joined(path, key), errors) for key, v in data.items()}
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
        errors.append(no_mapping(choices, data, path))
        return None
    if len(choices) == 1:
        return _build_dataclass(choices[0], data, path, errors)
    by_name = {choice_name(choice): choice for choice in choices}
    name = data.get("name")
    if not isinstance(name, str | None) or name not in by_name:
        errors.append(unknown_name(data, by_name, path))
        return None
    return _build_dataclass(by_name[data["name"]], data, path, errors, choices)


def _build_dataclass(
    cls: type, data: Mapping, path: str, errors: list[UserError], choices: Sequence[type] = ()
) -> Any:
    fields = fields_by_key(cls)
    before = len(errors)
    errors += [unknown_key(key, cls, choices, path) for key in data if key not in fields]
    hints = typing.get_type_hints(cls)
    values = {}
    for name, field in fields.items():
        if name in data:
            value = _with_name(data[name], field.default)
            values[field.name] = _build(hints[field.name], value, joined(path, name), errors)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append(missing_key(hints[field.name], joined(path, name)))
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


def _with_name(data: Any, default: Any) -> Any:
    """A mapping without `name` is of the kind that its field is by default."""
    if not (isinstance(data, Mapping) and dataclasses.is_dataclass(default)) or "name" in data:
        return data
    name = choice_name(type(default))
    return data if name is None else {"name": name, **data}


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
                fix=how_to_write(annotation, data, path),
            )
        )
    except (TypeError, ValueError) as error:
        errors.append(UserError("wrong type", where=path, expected=error, got=repr(data)))
    return None
