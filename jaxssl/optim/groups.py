"""A transformation applied to groups of parameters apart, each with a state of its own.

Of Adam, this gives each group its own count for bias correction. Parameters that are thawed later
make a group that begins later, while those of the groups before go on as they were.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optax

from jaxssl.core.names import flatten, join, split

GroupOf = Callable[[str], str]
"""The group of a parameter, by its path."""


def by_group(
    inner: optax.GradientTransformation, group_of: GroupOf
) -> optax.GradientTransformation:
    """`inner` over each group of parameters that is there; the state is {group: its state}."""

    def parts(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        rest: Mapping[str, Any] = tree
        while rest:
            name = group_of(next(iter(flatten(rest))))
            found[name], rest = split(rest, lambda path, name=name: group_of(path) == name)
        return found

    def init(params):
        return {name: inner.init(part) for name, part in parts(params).items()}

    def update(updates, state, params=None):
        given = parts(updates)
        of = parts(params) if params is not None else dict.fromkeys(given)
        made: dict[str, Any] = {
            name: inner.update(part, state[name], of[name]) for name, part in given.items()
        }
        whole: dict[str, Any] = {}
        for part, _ in made.values():
            whole = join(whole, part)
        return whole, {name: new for name, (_, new) in made.items()}

    return optax.GradientTransformation(init, update)
