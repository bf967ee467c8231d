"""Which classes a configuration may choose from, by the base class that they share.

A field annotated with a base class takes any class that is registered under it, told apart by its
`name`. What comes with jaxssl is registered beside its base class, a plugin registers its own by
the same line:

    register(Objective, MyObjective)
"""

import dataclasses
from typing import Any

from jaxssl.core.errors import UserError

_MEMBERS: dict[type, dict[str, type]] = {}


def register(base: type, *classes: type) -> None:
    """Makes classes choices of every field that is annotated with `base`.

    Raises:
      UserError: one is no frozen dataclass with a `name`, or its name is another's.
    """
    known = _MEMBERS.setdefault(base, {})
    for cls in classes:
        name = choice_name(cls)
        if name is None:
            raise UserError(
                "a class without a name cannot be chosen",
                where=f"{cls.__module__}.{cls.__qualname__}",
                expected='a frozen dataclass with a field such as name: Literal["mine"] = "mine"',
                got=repr(cls),
            )
        other = known.get(name, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UserError(
                "two classes have one name",
                where=f"{cls.__module__}.{cls.__qualname__}",
                expected=f"another name than that of {other.__module__}.{other.__qualname__}",
                got=repr(name),
            )
        known[name] = cls


def members(base: Any) -> tuple[type, ...]:
    """The classes that are registered under `base`, in that order; none under anything else."""
    return tuple(_MEMBERS.get(base, {}).values()) if isinstance(base, type) else ()


def choice_name(cls: type) -> str | None:
    """The value of `name` that selects the dataclass `cls` among others, or None."""
    if not dataclasses.is_dataclass(cls):
        return None
    for field in dataclasses.fields(cls):
        if field.name == "name" and isinstance(field.default, str):
            return field.default
    return None
