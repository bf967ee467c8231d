"""Learning rates that differ from parameter to parameter."""

from collections.abc import Callable

import optax

from jaxssl.core.names import flatten, unflatten

FactorOf = Callable[[str], float]
"""What a parameter's learning rate is multiplied with, by its path."""


def scale_by_path(factor_of: FactorOf) -> optax.GradientTransformation:
    """Multiplies updates, weight decay included; it has no state."""

    def update(updates, state, params=None):
        del params
        return unflatten({path: x * factor_of(path) for path, x in flatten(updates).items()}), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
