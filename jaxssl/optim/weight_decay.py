"""Which parameters decay: rules over their names."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxssl.core.layer_names import canonical
from jaxssl.core.names import matches, unmatched

NO_DECAY = ("**/bias", "**/scale")
"""Biases and the scales of norms: what does not decay unless told otherwise."""


def parameter_names(params: Mapping[str, Any]) -> Any:
    """A tree like `params` (boxed or not) with each leaf's name, `encoder/layers/.../kernel`."""

    def name(path, _):
        return "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))

    return jax.tree.map_with_path(name, params)


def decay_mask(patterns: tuple[str, ...], params: Mapping[str, Any]) -> Any:
    """True where weight decay applies: parameters that no pattern matches.

    Names are those of an uncut stack, `encoder/layers/...`, whatever the segments of `params`.
    """

    def decays(name: str) -> bool:
        return not any(matches(pattern, canonical(name)) for pattern in patterns)

    return jax.tree.map(decays, parameter_names(params))


def check_no_decay(patterns: tuple[str, ...], params: Mapping[str, Any]) -> None:
    """Refuses patterns that match nothing in a model's parameters; those by default may.

    Args:
      params: all of the model's, also what is frozen.

    Raises:
      UserError: suggests the nearest name.
    """
    names = list(map(canonical, jax.tree.leaves(parameter_names(params))))
    for pattern in patterns:
        if pattern not in NO_DECAY and not any(matches(pattern, name) for name in names):
            raise unmatched(pattern, names, "optimizer.no_decay")
