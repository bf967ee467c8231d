"""What a configuration may choose from, by the base class that the choices share.

A field annotated with a base class takes any class that is registered under it, told apart by its
`name`. What comes with jaxssl is registered beside its base class, a plugin registers its own by
the same line:

    register(Objective, MyObjective)

What has no settings is registered as it is, an instance with a `name`: a head of a model, a family
of Hugging Face's. These are looked up by name (`named`).
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from jaxssl.core.errors import UserError

B = TypeVar("B")
Members = dict[type, dict[str, Any]]

_MEMBERS: Members = {}


def register(base: type[B], *given: type[B] | B) -> None:
    """Makes classes choices of every field that is annotated with `base`; instances are known by
    their names.

    Raises:
      UserError: one has no `name`, or a class is no frozen dataclass, or its name is another's.
    """
    known = _MEMBERS.setdefault(base, {})
    for one in given:
        name = choice_name(one) if isinstance(one, type) else getattr(one, "name", None)
        if not isinstance(name, str) or not (isinstance(one, base) or _is_kind(one, base)):
            raise UserError(
                "this cannot be chosen by a name",
                where=_place(one),
                expected=f"a frozen dataclass over {base.__name__} with a field such as "
                'name: Literal["mine"] = "mine"',
                got=repr(one),
            )
        other = known.get(name, one)
        if _place(other) != _place(one) or not isinstance(one, type) and other != one:
            raise UserError(
                "two have one name",
                where=_place(one),
                expected=f"another name than that of {_place(other)}",
                got=repr(name),
            )
        known[name] = one


def _is_kind(one: Any, base: type) -> bool:
    return isinstance(one, type) and issubclass(one, base)


def class_of(one: Any) -> type:
    """What was registered, or its class if that is an instance."""
    return one if isinstance(one, type) else type(one)


def _place(one: Any) -> str:
    cls = class_of(one)
    return f"{cls.__module__}.{cls.__qualname__}"


def members(base: Any) -> tuple[type, ...]:
    """The classes that are registered under `base`, in that order; none under anything else."""
    known = _MEMBERS.get(base, {}) if isinstance(base, type) else {}
    return tuple(one for one in known.values() if isinstance(one, type))


def named(base: type[B]) -> Mapping[str, B]:
    """The instances that are registered under `base`, by name, those registered later too."""
    return MappingProxyType(_MEMBERS.setdefault(base, {}))


def is_registered(cls: Any) -> bool:
    """Whether a class is a choice that others may be added to."""
    return any(cls in known.values() for known in _MEMBERS.values())


def snapshot() -> Members:
    """All that is registered now, for `restore`."""
    return {base: dict(known) for base, known in _MEMBERS.items()}


def restore(before: Members) -> None:
    """Forgets what was registered since the snapshot was taken."""
    for base, known in _MEMBERS.items():
        known.clear()
        known.update(before.get(base, {}))


def choice_name(cls: type) -> str | None:
    """The value of `name` that selects the dataclass `cls` among others, or None."""
    if not dataclasses.is_dataclass(cls):
        return None
    for field in dataclasses.fields(cls):
        if field.name == "name" and isinstance(field.default, str):
            return field.default
    return None
