"""The fields of a configuration: their keys in files, and what a value of each may be."""

import dataclasses
import types
import typing
from typing import Any

from jaxssl.core.registry import members


def key_of(field: dataclasses.Field) -> str:
    """A field's key in files: its name, or `from` for `from_`, which Python keeps for itself."""
    return field.name.removesuffix("_")


def fields_by_key(cls: type) -> dict[str, dataclasses.Field]:
    """The fields that a file may give, by their keys."""
    return {key_of(field): field for field in dataclasses.fields(cls) if field.init}


def members_of(annotation: Any) -> tuple:
    """What a value may be: the members of a union, registered classes in place of their base."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    alternatives = typing.get_args(annotation) if is_union else (annotation,)
    return tuple(member for each in alternatives for member in members(each) or (each,))


def type_name(annotation: Any) -> str:
    """A type as a user would write it."""
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    kinds = members_of(annotation)
    if len(kinds) > 1:
        return " | ".join(type_name(kind) for kind in kinds)
    if annotation is types.NoneType:
        return "null"
    if typing.get_origin(annotation) is not None:
        return str(annotation).replace("typing.", "").replace("collections.abc.", "")
    return getattr(annotation, "__name__", str(annotation))
