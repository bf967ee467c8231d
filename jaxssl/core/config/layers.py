"""Layers: recipe files, mappings and `a.b=c` overrides as one nested mapping."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxssl.core.config.yaml_text import has_comment, parse_yaml
from jaxssl.core.errors import UserError
from jaxssl.core.json_files import read_regular

MOST_BYTES = 32 << 20
QUOTES = ("'", '"', "|", ">")
"""What a text in YAML begins with that is not plain."""


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
    """`a.b=c` as a nested mapping; `c` is read as YAML, but a `#` begins no comment: a text without
    quotes is the whole text."""
    path, sign, value = text.partition("=")
    if not sign or not path.strip():
        raise UserError(
            "an override is not of the form key=value",
            where=f"argument {text!r}",
            expected="a.b=value, for example optimizer.learning_rate=3e-4",
            fix="a recipe file must exist to be read as one; check its path",
        )
    parsed: Any = parse_yaml(value, where=f"override {text!r}")
    plain = value.strip()
    if plain.startswith("#") or (isinstance(parsed, str) and plain[:1] not in QUOTES):
        parsed = plain
    elif has_comment(value):
        raise UserError(
            "an override with something behind its value",
            where=f"argument {text!r}",
            expected="a value alone; a text with # in a list stands between quotes",
            got=f"# after {parsed!r}",
        )
    first, *others = path.strip().split(".")
    for key in reversed(others):
        parsed = {key: parsed}
    return {first: parsed}


def read_yaml(path: str | Path) -> dict:
    """A recipe file as a mapping."""
    what, fix = "a configuration file cannot be read", "give a YAML file: key: value"
    try:
        text = read_regular(path, what=what, fix=fix, most_bytes=MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(what, where=path, expected="text in UTF-8", got=error) from error
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
