"""Checks that several configurations share: of numbers, and of what would be ignored."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

from jaxssl.core.errors import UserError

SEEDS = 2**32


def check_at_least(low: float, config: Any, *names: str) -> None:
    """Refuses fields of `config` that are below `low` or not finite; None, where allowed, passes.

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value < math.inf:
            raise UserError(
                "a number is out of range", where=name, expected=f"at least {low}", got=value
            )


def refuse_below(low: int, **given: int | None) -> None:
    """Refuses options of a command that are below `low`; None, where allowed, passes.

    Raises:
      UserError: names the first such option.
    """
    for name, value in given.items():
        if value is not None and value < low:
            option = "--" + name.replace("_", "-")
            raise UserError(
                "a number is out of range", where=option, expected=f"at least {low}", got=value
            )


def check_above_zero(config: Any, *names: str) -> None:
    """Refuses fields of `config` that are not above 0, or not finite; None, where allowed, passes.

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError("a number is out of range", where=name, expected="above 0", got=value)


def check_finite(config: Any, *names: str) -> None:
    """Refuses fields of `config` that are infinite or no numbers; any other will do.

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if not math.isfinite(value):
            raise UserError("a number is not finite", where=name, expected="any other", got=value)


def check_share(config: Any, *names: str) -> None:
    """Refuses fields of `config` that are not shares: from 0 to below 1; None, where allowed,
    passes.

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 <= value < 1:
            raise UserError(
                "a share is out of range", where=name, expected="at least 0 and below 1", got=value
            )


def check_unused(config: Any, names: Sequence[str], *, where: str, fix: str | None = None) -> None:
    """Refuses fields of `config` that are given, so that they differ from their defaults, where
    they mean nothing.

    Args:
      where: in words ("with preset=full").

    Raises:
      UserError: names all such fields.
    """
    defaults = {field.name: default_of(field) for field in dataclasses.fields(config)}
    given = {name: getattr(config, name) for name in names}
    given = {name: value for name, value in given.items() if value != defaults[name]}
    if given:
        shown = (f"{name}={defaults[name]!r}" for name in given)
        raise UserError(
            f"{', '.join(given)}: of no meaning {where}",
            where=", ".join(given),
            expected="not given, or as it stands by default: " + ", ".join(shown),
            got=", ".join(map(repr, given.values())),
            fix=fix,
        )


def default_of(field: dataclasses.Field) -> Any:
    """The default of a dataclass's field."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def check_local(config: Any, *names: str) -> None:
    """Refuses paths that are addresses (`refuse_address`).

    Raises:
      UserError: names the first such field.
    """
    for name in names:
        refuse_address(getattr(config, name), name)


def refuse_address(path: str, where: str) -> None:
    """Refuses an address for a path: `gs://bucket` would become a local directory `gs:`.

    Raises:
      UserError: says what to do instead.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise UserError(
            "an address cannot stand for a directory",
            where=where,
            expected="a path of a file system that is mounted here",
            got=path,
            fix="mount the bucket (gcsfuse, s3fs), or copy from and to it yourself",
        )


def check_seed(config: Any, name: str = "seed") -> None:
    """Refuses a seed that 32 bits do not hold: another would stand for it.

    Raises:
      UserError: names the field.
    """
    value = getattr(config, name)
    if not 0 <= value < SEEDS:
        raise UserError(
            "a seed is out of range",
            where=name,
            expected=f"0 to {SEEDS - 1} (32 bits)",
            got=value,
        )
