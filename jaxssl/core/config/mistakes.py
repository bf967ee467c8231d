"""What is said of a configuration that cannot be built: a key or a value, and how to write it."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from jaxssl.core.config.fields import fields_by_key, members_of, type_name
from jaxssl.core.errors import UserError, did_you_mean
from jaxssl.core.registry import choice_name, is_registered

MISSING = "a required key is missing"
PLUGIN = "what comes in a file of your own is loaded with --plugin FILE"


def joined(path: str, key: object) -> str:
    """The dotted path of a key inside `path`."""
    return f"{path}.{key}" if path else str(key)


def unknown_key(key: object, cls: type, choices: Sequence[type], path: str) -> UserError:
    """A key that `cls` does not have; it may be one of another of the `choices`."""
    fields = fields_by_key(cls)
    owners = [str(choice_name(choice)) for choice in choices if key in fields_by_key(choice)]
    fix = did_you_mean(str(key), fields)
    if owners:
        fix = f"leave it out, or set {joined(path, 'name')}={owners[0]}"
    return UserError(
        f"unknown key: a setting of {', '.join(owners)}" if owners else "unknown key",
        where=joined(path, key),
        expected="one of " + ", ".join(sorted(fields)),
        got=repr(key),
        fix=fix,
    )


def missing_key(annotation: Any, where: str) -> UserError:
    """A key that must be given and was not."""
    choices = [c for c in members_of(annotation) if dataclasses.is_dataclass(c)]
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


def how_to_write(annotation: Any, data: Any, path: str) -> str | None:
    """What a value of this type looks like in a file or an override."""
    kinds = members_of(annotation)
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
        return f"a text that looks like a number is quoted, as it was typed: '{path}=\"{data}\"'"
    samples = {bool: "true", int: "1000", float: "0.1 or 3e-4"}
    samples = [text for kind, text in samples.items() if kind in kinds]
    return f"write {path}={samples[0]}, for example, without quotes" if samples else None


def unknown_name(data: Mapping, by_name: Mapping[str | None, type], path: str) -> UserError:
    """A mapping whose `name` none of the choices has, or that has none."""
    name, where, choices = data.get("name"), joined(path, "name"), list(by_name.values())
    known = ", ".join(map(str, by_name))
    if name is None:
        able = [each for each, choice in by_name.items() if {*data} <= {*fields_by_key(choice)}]
        return UserError(
            "a name is missing, which says what this is",
            where=where,
            expected=f"one of {known}",
            got=f"{joined(path, next(iter(data)))}, and no name" if data else "no name",
            fix=f"add {where}={able[0] if data and len(able) == 1 else '...'}",
        )
    return UserError(
        "an unknown name",
        where=where,
        expected=f"one of {known}",
        got=repr(name),
        fix=did_you_mean(str(name), map(str, by_name))
        or (PLUGIN if is_registered(choices[0]) else None),
    )


def no_mapping(choices: Sequence[type], data: Any, path: str) -> UserError:
    """A value where settings of a dataclass belong."""
    names = " or ".join(choice.__name__ for choice in choices)
    named = [choice_name(choice) for choice in choices]
    fix = f"set {path}.name={data}" if isinstance(data, str) and data in named else None
    return UserError(
        "wrong type", where=path, expected=f"a mapping ({names})", got=repr(data), fix=fix
    )
