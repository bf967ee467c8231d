"""One pattern language over parameter paths: weight decay, freezing, learning rates, import.

A parameter's name is its path joined by `/`, for example `encoder/layers/attention/query/kernel`.
In a pattern `*` matches within one part, `**` any number of parts, `{a,b}` either. The first rule
that matches wins; a rule that matches nothing is an error.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from jaxssl.core.errors import UserError, did_you_mean

V = TypeVar("V")


@functools.cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression that a pattern stands for, a group for each wildcard."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("**/", i):
            out, i = out + r"((?:[^/]+/)*)", i + 3
        elif pattern.startswith("/**", i) and i + 3 == len(pattern):
            out, i = out + r"((?:/[^/]+)*)", i + 3
        elif pattern.startswith("**", i):
            out, i = out + r"(.*)", i + 2
        elif pattern[i] == "*":
            out, i = out + r"([^/]*)", i + 1
        elif pattern[i] == "{" and "}" in pattern[i:]:
            end = pattern.index("}", i)
            options = "|".join(re.escape(option) for option in pattern[i + 1 : end].split(","))
            out, i = out + f"(?:{options})", end + 1
        else:
            out, i = out + re.escape(pattern[i]), i + 1
    return re.compile(out)


def matches(pattern: str, name: str) -> bool:
    """Whether `pattern` matches the whole of `name`."""
    return compile_pattern(pattern).fullmatch(name) is not None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as {path: leaf}; anything that is not a mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def split(
    tree: Mapping[str, Any], choose: Callable[[str], bool]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves whose path `choose` takes, and the others: two trees without common leaves."""
    flat = flatten(tree)
    chosen = {path: leaf for path, leaf in flat.items() if choose(path)}
    others = {path: leaf for path, leaf in flat.items() if path not in chosen}
    return unflatten(chosen), unflatten(others)


def join(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `split`: one tree with the leaves of both."""
    return unflatten({**flatten(left), **flatten(right)})


def assign(
    rules: Sequence[tuple[str, V]], names: Iterable[str], default: V, where: str = "rules"
) -> dict[str, V]:
    """{name: value of the first rule that matches it, else `default`}.

    Raises:
      UserError: a rule's pattern matches no name.
    """
    names = list(names)
    for pattern, _ in rules:
        if not any(matches(pattern, name) for name in names):
            raise unmatched(pattern, names, where)
    return {
        name: next((value for pattern, value in rules if matches(pattern, name)), default)
        for name in names
    }


def unmatched(pattern: str, names: list[str], where: str) -> UserError:
    """The error for a pattern that matches no parameter."""
    return UserError(
        "a pattern matches no parameter",
        where=where,
        expected="a pattern over names such as " + ", ".join(names[:3]),
        got=repr(pattern),
        fix=did_you_mean(pattern, names) or "see the names with `jaxssl inspect RUN`",
    )
