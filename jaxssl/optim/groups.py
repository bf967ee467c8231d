"""A transformation applied to groups of parameters apart, each with a state of its own.

Of Adam, this gives each group its own count for bias correction. Parameters that are thawed later
make a group that begins later, while those of the groups before go on as they were. Groups that a
step's losses do not reach may be left out of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import optax

from jaxssl.core.names import flatten, join, unflatten

GroupOf = Callable[[str], str]
"""The group of a parameter, by its path."""


def by_group(
    inner: optax.GradientTransformation, group_of: GroupOf
) -> optax.GradientTransformation:
    """`inner` over each group of parameters that is there; the state is {group: its state}.

    `update` may be given some of the groups, each with all of its parameters. The state of the
    others stays as it is, to the last bit: their moments do not decay and their counts do not move,
    as with parameters that have no gradient in PyTorch.
    """

    def init(params):
        return {name: inner.init(part) for name, part in grouped(params, group_of).items()}

    def update(updates, state, params=None):
        given = {} if params is None else grouped(params, group_of)
        whole: dict[str, Any] = {}
        states = dict(state)
        for name, part in grouped(updates, group_of).items():
            moved, states[name] = inner.update(part, state[name], given.get(name))
            whole = join(whole, cast(dict[str, Any], moved))
        return whole, states

    return optax.GradientTransformation(init, update)


def grouped(tree: Mapping[str, Any], group_of: GroupOf) -> dict[str, dict[str, Any]]:
    """{group: the part of `tree` with its parameters}."""
    parts: dict[str, dict[str, Any]] = {}
    for path, leaf in flatten(tree).items():
        parts.setdefault(group_of(path), {})[path] = leaf
    return {name: unflatten(part) for name, part in parts.items()}
