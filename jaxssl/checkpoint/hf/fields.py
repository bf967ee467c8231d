"""Fields of `config.json` and of our configurations, both ways."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxssl.core.errors import UserError

ACTIVATION = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Hugging Face's names of activations, and ours; the first of several is written."""


@dataclass(frozen=True)
class Field:
    """A field.

    Attributes:
      ours, theirs: its names.
      default: its value where `config.json` leaves it out, as in `transformers`' class.
      values: their values and ours, where these are called otherwise.
      alias: another name of theirs that `transformers` takes for it.
    """

    ours: str
    theirs: str
    default: Any
    values: Mapping[str, Any] | None = None
    alias: str | None = None


def read(fields: Sequence[Field], given: Mapping[str, Any]) -> dict[str, Any]:
    """{our field: value} out of `config.json`.

    Raises:
      UserError: a value that we have none for.
    """
    found = {}
    for field in fields:
        value = given.get(field.theirs, field.default)
        if field.alias is not None and given.get(field.alias) is not None:
            value = agreed({name: given.get(name) for name in (field.theirs, field.alias)})
        if value is None and field.default is not None:
            raise UserError(
                "a field has no value",
                where=f"config.json, {field.theirs}",
                expected=f"such as {field.default}",
                got="null",
            )
        if field.values is not None:
            if value not in field.values:
                raise UserError(
                    "this model has something that is not built here",
                    where=f"config.json, {field.theirs}",
                    expected=" or ".join(field.values),
                    got=value,
                )
            value = field.values[str(value)]
        found[field.ours] = value
    return found


def write(fields: Sequence[Field], config: Any) -> dict[str, Any]:
    """{their field: value} of our configuration."""
    written = {}
    for field in fields:
        value = getattr(config, field.ours)
        if field.values is not None:
            value = next(theirs for theirs, ours in field.values.items() if ours == value)
        written[field.theirs] = value
    return written


def agreed(stated: Mapping[str, Any]) -> Any:
    """The value of fields that say one thing, by their names; None where all are None.

    Raises:
      UserError: they say different things. Which of them readers believe depends on their version.
    """
    there = {name: value for name, value in stated.items() if value is not None}
    values = list(there.values())
    if any(value != values[0] for value in values):
        raise UserError(
            "two fields that say one thing contradict each other",
            where="config.json, " + " and ".join(there),
            expected="the same in both, or one of them alone",
            got=", ".join(f"{name}={value}" for name, value in there.items()),
            fix="delete the one that is wrong",
        )
    return values[0] if values else None


def expect(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a `config.json` with another value than the one that is built here; one that is left
    out is taken for that.

    Raises:
      UserError: names the first.
    """
    for name, value in wanted.items():
        if given.get(name, value) != value:
            raise UserError(
                "this model has something that is not built here",
                where=f"config.json, {name}",
                expected=value,
                got=given[name],
            )


def check_written(config: Any, **wanted: Any) -> None:
    """Refuses to export a configuration that the class of `transformers` cannot have.

    Raises:
      UserError: names the first such field.
    """
    check_one_of(config, **{name: (value,) for name, value in wanted.items()})


def check_one_of(config: Any, **wanted: Sequence[Any]) -> None:
    """As `check_written`, of fields that may have several values."""
    for name, values in wanted.items():
        if getattr(config, name) not in values:
            raise UserError(
                "Hugging Face's class of this family has no such model",
                where=f"model.{name}",
                expected=" or ".join("null" if x is None else str(x) for x in values),
                got=getattr(config, name),
            )
